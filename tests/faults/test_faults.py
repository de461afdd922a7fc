"""Faults of clusters: each ends a run in order, in time, and with a message that names the cause."""

import json
import os
import signal
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_modules.json_lines import append_json_lines, read_json_lines
from data_modules.order.sampling import BatchOrder
from tests.faults.experiment import BATCH, CONTRASTIVE_STEPS, NUM_PAIRS, SAVE_EVERY, write_experiment
from tests.faults.kill_points import KillPoint
from tests.faults.runner import Outcome, Sabotage, kelip
from tests.faults.sabotage import (
    STEP,
    FullDisk,
    Hang,
    HiddenCheckpoint,
    PoisonLoss,
    SignalAt,
    SignalWhileOpening,
    SignalWhileStopping,
    TrainTokenizer,
)

pytestmark = pytest.mark.distributed
REQUEUE = 75


def train(folder: Path, *overrides: str, world: int = 1, sabotage: dict[int, Sabotage] | None = None) -> Outcome:
    """Contrastive training alone, in folder/tiny."""
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", "mae=null", *overrides]
    several = [f"trainer.devices={world}"] if world > 1 else []
    return kelip(*command, *several, log=folder / "log", world=world, sabotage=sabotage)


def checkpoint_names(folder: Path) -> list[str]:
    """The checkpoints of the run, oldest first, leftovers of interrupted saves included."""
    return sorted(one.name for one in (folder / "tiny" / "contrastive" / "checkpoints").iterdir())


def status_of(folder: Path) -> str:
    """The state in status.json."""
    state: str = json.loads((folder / "tiny" / "status.json").read_text(encoding="utf-8"))["state"]
    return state


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, REQUEUE), (signal.SIGTERM, REQUEUE)])
def test_signal_to_one_rank__all_stop_with_one_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    stopped = train(tmp_path, world=2, sabotage={1: SignalAt(number)})
    assert stopped.exit_codes == [code, code], stopped.output
    assert checkpoint_names(tmp_path) == [f"step={SAVE_EVERY:07d}", f"step={STEP + 1:07d}"]
    assert stopped.output.count("kelip: interrupted: stopped after step 6") == 1
    assert "--resume auto" in stopped.output
    assert status_of(tmp_path) == "interrupted"


def test_killed_run__resumes_with_records_whose_last_line_is_partial(tmp_path: Path) -> None:
    killed = train(tmp_path, sabotage={0: KillPoint.at("contrastive", 2 * SAVE_EVERY + 1)})
    assert killed.exit_codes == [-signal.SIGKILL], killed.output
    bad = {"kind": "image_missing", "source": "all", "key": "a\u2028b\x85.jpg", "sample_id": 1, "step": 2, "detail": ""}
    records = [tmp_path / "tiny" / name for name in ("metrics.jsonl", "resumes.jsonl", "contrastive/bad_samples.jsonl")]
    append_json_lines(records[2], [bad])
    for file in records:
        with file.open("a", encoding="utf-8") as stream:
            stream.write('{"kind": "사과 \u2028')
    resumed = train(tmp_path, "--resume", "auto")
    assert resumed.exit_codes == [0], resumed.output
    steps = [one["step"] for one in read_json_lines(records[0]) if "contrastive/loss" in one]
    assert steps == list(range(CONTRASTIVE_STEPS))
    assert [one["overrides"][-1] for one in read_json_lines(records[1])] == ["mae=null"]
    assert list(read_json_lines(records[2])) == [bad]


def test_ctrl_c__exits_130_and_resumes_from_there(tmp_path: Path) -> None:
    stopped = train(tmp_path, sabotage={0: SignalAt(signal.SIGINT)})
    assert stopped.exit_codes == [130], stopped.output
    resumed = train(tmp_path, "--resume", str(tmp_path / "tiny"))
    assert resumed.exit_codes == [0], resumed.output
    assert f"resumes after step {STEP + 1}" in resumed.output
    assert train(tmp_path, "--resume", "auto").output.count("has finished already") == 1


def test_signal_received_twice__the_second_one_is_ignored(tmp_path: Path) -> None:
    stopped = train(tmp_path, sabotage={0: SignalWhileStopping(signal.SIGTERM)})
    assert stopped.exit_codes == [REQUEUE], stopped.output
    assert stopped.output.count("kelip: interrupted: stopped after step 6") == 1
    assert status_of(tmp_path) == "interrupted"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, REQUEUE), (signal.SIGTERM, REQUEUE), (signal.SIGINT, 130)]
)
def test_signal_before_there_is_a_run__stops_at_once(tmp_path: Path, number: int, code: int) -> None:
    stopped = train(tmp_path, sabotage={0: SignalWhileOpening(number)})
    assert stopped.exit_codes == [code], stopped.output
    assert stopped.output.count("kelip: ") == 1
    assert "Traceback" not in stopped.output
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank__ends_the_others_with_the_cause(tmp_path: Path, victim: int) -> None:
    ended = train(tmp_path, world=2, sabotage={victim: KillPoint.at("contrastive", STEP)})
    assert ended.exit_codes[victim] == -signal.SIGKILL
    assert ended.exit_codes[1 - victim] == 1, ended.output
    assert f"rank {1 - victim} stops, because another process of the run died" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed_stage_2", marks=pytest.mark.slow)])
def test_hung_rank__ends_the_others_in_the_stated_time(tmp_path: Path, strategy: str) -> None:
    command = ["pretrain", str(write_experiment(tmp_path)), f"output_dir={tmp_path}", "mae=null"]
    command += ["trainer.devices=2", f"trainer.strategy={strategy}", "trainer.timeout_minutes=0.15"]

    def end_as_a_launcher_does(processes: list[BaseProcess]) -> None:
        processes[0].join(timeout=90)  # far below torch's own 30 minutes
        assert processes[0].exitcode is not None
        assert processes[1].is_alive()
        processes[1].kill()

    ended = kelip(*command, log=tmp_path / "log", world=2, sabotage={1: Hang()}, while_running=end_as_a_launcher_does)
    assert ended.exit_codes == [1, -signal.SIGKILL], ended.output
    assert "rank 0 stops, because another process of the run died or does not respond (" in ended.output
    assert "--resume auto" in ended.output
    assert status_of(tmp_path) == "failed"


def test_rank_that_sees_older_files__no_rank_starts(tmp_path: Path) -> None:
    train(tmp_path, world=2, sabotage={1: KillPoint.at("contrastive", 2 * SAVE_EVERY + 1)})
    refused = train(tmp_path, "--resume", "auto", world=2, sabotage={1: HiddenCheckpoint()})
    assert refused.exit_codes == [2, 2], refused.output
    assert "rank 0 would resume contrastive after step 6, and rank 1" in refused.output
    assert "contrastive after step 3; run the same command again" in refused.output


def test_non_finite_loss_on_one_rank__stops_all_and_names_the_samples(tmp_path: Path) -> None:
    stopped = train(tmp_path, world=2, sabotage={1: PoisonLoss()})
    assert stopped.exit_codes == [1, 1], stopped.output
    assert stopped.output.count(f"a loss or gradient of step {STEP} is not finite") == 1
    report = json.loads((tmp_path / f"tiny/contrastive/non_finite/step={STEP:07d}.json").read_text(encoding="utf-8"))
    assert report["step"] == STEP
    order = BatchOrder(lengths=(2 * NUM_PAIRS,), weights=(1.0,), global_batch_size=BATCH, seed=0)
    batch = order.batch(STEP).tolist()
    shares = [[batch[: BATCH // 2]], [batch[BATCH // 2 :]]]
    assert [rank["sample_ids"] for rank in report["ranks"]] == shares
    assert [rank["losses"] == ["nan"] for rank in report["ranks"]] == [False, True]
    assert "model.logit_scale" in report["parameters_with_non_finite_gradient"]
    assert checkpoint_names(tmp_path) == [f"step={SAVE_EVERY:07d}"]
    assert status_of(tmp_path) == "failed"


def test_non_finite_loss__skipped_by_policy(tmp_path: Path) -> None:
    skipped = train(tmp_path, "non_finite.policy=skip", sabotage={0: PoisonLoss()})
    assert skipped.exit_codes == [0], skipped.output
    assert "skipped, number 1 of at most 10" in skipped.output
    state = torch.load(
        tmp_path / f"tiny/contrastive/checkpoints/step={CONTRASTIVE_STEPS:07d}/state.ckpt", weights_only=True
    )
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["state_dict"].values())
    steps = {int(moments["step"]) for moments in state["optimizer_states"][0]["state"].values()}
    assert steps == {CONTRASTIVE_STEPS - 1}, "the optimizer has not seen the step that was skipped"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_non_finite_loss__skipped_under_zero_as_under_ddp(tmp_path: Path, stage: int) -> None:
    pytest.importorskip("deepspeed")
    models = []
    for strategy in ("ddp", f"deepspeed_stage_{stage}"):
        (folder := tmp_path / strategy).mkdir()
        overrides = ["non_finite.policy=skip", "optimizer.learning_rate=1e-4", f"trainer.strategy={strategy}"]
        skipped = train(folder, *overrides, world=2, sabotage={1: PoisonLoss()})
        assert skipped.exit_codes == [0, 0], skipped.output
        assert skipped.output.count("skipped, number 1 of at most 10") == 1
        models.append(load_file(folder / "tiny" / "contrastive" / "dual_encoder" / "model.safetensors"))
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-5, atol=1e-5, msg=f"{name} differs")


def test_full_disk__stops_all_and_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    stopped = train(tmp_path, world=2, sabotage={0: FullDisk()})
    assert stopped.exit_codes == [1, 1], stopped.output
    assert stopped.output.count("kelip: the disk is full, so the run stopped") == 1
    assert checkpoint_names(tmp_path) == [f"step={SAVE_EVERY:07d}"]
    assert status_of(tmp_path) == "failed"
    resumed = train(tmp_path, "--resume", "auto")  # on one process: another number is no hindrance
    assert resumed.exit_codes == [0], resumed.output


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncated", "state.ckpt has"),
        ("flipped", "does not hold the bytes that were written"),
        ("no manifest", "it has no manifest.json"),
    ],
)
def test_damaged_checkpoint__the_one_before_it_is_used(tmp_path: Path, damage: str, reason: str) -> None:
    train(tmp_path, sabotage={0: KillPoint.at("contrastive", 2 * SAVE_EVERY + 1)})
    newest = tmp_path / "tiny" / "contrastive" / "checkpoints" / f"step={2 * SAVE_EVERY:07d}"
    state = newest / "state.ckpt"
    match damage:
        case "truncated":
            os.truncate(state, state.stat().st_size // 2)
        case "flipped":
            data = bytearray(state.read_bytes())
            data[len(data) // 2] ^= 1
            state.write_bytes(data)
        case _:
            (newest / "manifest.json").unlink()
    resumed = train(tmp_path, "--resume", "auto")
    assert resumed.exit_codes == [0], resumed.output
    assert reason in resumed.output
    assert "the one before it is used" in resumed.output
    assert f"resumes after step {SAVE_EVERY} " in resumed.output


def test_tokenizer__is_trained_by_the_first_process_and_read_by_the_other(tmp_path: Path) -> None:
    sabotage: dict[int, Sabotage] = {0: TrainTokenizer(2.0), 1: TrainTokenizer(None)}
    ended = train(tmp_path, "contrastive.schedule.max_steps=3", world=2, sabotage=sabotage)
    assert ended.exit_codes == [0, 0], ended.output
    kept = (tmp_path / "tiny" / "tokenizer.json").read_bytes()
    assert (tmp_path / "tiny" / "contrastive" / "dual_encoder" / "tokenizer.json").read_bytes() == kept
    assert sha256(kept).hexdigest() in (tmp_path / "tiny" / "data.json").read_text(encoding="utf-8")
