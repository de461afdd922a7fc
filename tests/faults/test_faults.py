"""What clusters do to a run: each fault ends it in order, in time, and with a sentence that says what happened."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules.sampling import BatchOrder
from tests.faults.experiment import BATCH, CONTRASTIVE_STEPS, NUM_PAIRS, SAVE_EVERY, write_experiment
from tests.faults.kill_points import KillPoint
from tests.faults.runner import Outcome, Sabotage, kelip

pytestmark = pytest.mark.distributed
REQUEUE = 75
STEP = 5
"""The step, from 0, at which things happen."""


@dataclass(frozen=True, slots=True)
class SignalAt:
    """Sends this process a signal in the middle of a step."""

    number: int

    def __call__(self) -> None:
        _at_step(lambda _: os.kill(os.getpid(), self.number))


@dataclass(frozen=True, slots=True)
class PoisonLoss:
    """Makes the loss of one step NaN; the gradient of every parameter follows."""

    def __call__(self) -> None:
        from kelip_lightning.modules.contrastive import ContrastiveModule

        original = ContrastiveModule.training_step

        def poisoned(self: Any, batch: Any, batch_idx: int) -> Any:
            loss = original(self, batch, batch_idx)
            return loss * float("nan") if self.trainer.global_step == STEP else loss

        ContrastiveModule.training_step = poisoned  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class FullDisk:
    """From the second checkpoint on, every write meets the kernel's own ENOSPC."""

    def __call__(self) -> None:
        from kelip_lightning.callbacks.checkpointing import CheckpointCallback

        original = CheckpointCallback._prepare

        def prepare(self: Any, partial: Path) -> None:
            original(self, partial)
            if str(2 * SAVE_EVERY) in partial.name:
                (partial / "state.ckpt").symlink_to("/dev/full")

        CheckpointCallback._prepare = prepare  # type: ignore[method-assign]


def _at_step(act: Callable[[Any], None]) -> None:
    from kelip_lightning.callbacks.non_finite import NonFiniteGuard

    original = NonFiniteGuard.on_before_backward

    def wrapped(self: Any, trainer: Any, module: Any, loss: Any) -> None:
        if trainer.global_step == STEP:
            act(trainer)
        original(self, trainer, module, loss)

    NonFiniteGuard.on_before_backward = wrapped  # type: ignore[method-assign]


def train(folder: Path, *overrides: str, world: int = 1, sabotage: dict[int, Sabotage] | None = None) -> Outcome:
    """Contrastive training alone, in folder/tiny."""
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", "mae=null", *overrides]
    ddp = [f"trainer.devices={world}", "trainer.strategy=ddp"] if world > 1 else []
    return kelip(*command, *ddp, log=folder / "log", world=world, sabotage=sabotage)


def checkpoint_names(folder: Path) -> list[str]:
    """The checkpoints of the run, oldest first; leftovers of saves too."""
    return sorted(one.name for one in (folder / "tiny" / "contrastive" / "checkpoints").iterdir())


def status_of(folder: Path) -> str:
    """How the run says that it ended."""
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


def test_ctrl_c__exits_130_and_goes_on_from_there(tmp_path: Path) -> None:
    stopped = train(tmp_path, sabotage={0: SignalAt(signal.SIGINT)})
    assert stopped.exit_codes == [130], stopped.output
    resumed = train(tmp_path, "--resume", str(tmp_path / "tiny"))
    assert resumed.exit_codes == [0], resumed.output
    assert f"goes on after step {STEP + 1}" in resumed.output
    assert train(tmp_path, "--resume", "auto").output.count("has finished; nothing is left to do") == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank__ends_the_others_with_the_cause(tmp_path: Path, victim: int) -> None:
    ended = train(tmp_path, world=2, sabotage={victim: KillPoint.at("contrastive", STEP)})
    assert ended.exit_codes[victim] == -signal.SIGKILL
    assert ended.exit_codes[1 - victim] == 1, ended.output
    assert ended.seconds < 30
    assert f"rank {1 - victim} stops, because another process of the run has died" in ended.output
    assert "Traceback" not in ended.output


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


def test_full_disk__stops_all_and_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    stopped = train(tmp_path, world=2, sabotage={0: FullDisk()})
    assert stopped.exit_codes == [1, 1], stopped.output
    assert stopped.output.count("kelip: the disk is full, so the run stopped") == 1
    assert checkpoint_names(tmp_path) == [f"step={SAVE_EVERY:07d}"]
    assert status_of(tmp_path) == "failed"
    resumed = train(tmp_path, "--resume", "auto")  # on one process: another number is no hindrance
    assert resumed.exit_codes == [0], resumed.output


@pytest.mark.parametrize("damage", ["torn", "flipped", "no manifest"])
def test_damaged_checkpoint__the_one_before_it_is_used(tmp_path: Path, damage: str) -> None:
    train(tmp_path, sabotage={0: KillPoint.at("contrastive", 2 * SAVE_EVERY + 1)})
    newest = tmp_path / "tiny" / "contrastive" / "checkpoints" / f"step={2 * SAVE_EVERY:07d}"
    state = newest / "state.ckpt"
    match damage:
        case "torn":
            os.truncate(state, state.stat().st_size // 2)
        case "flipped":
            data = bytearray(state.read_bytes())
            data[len(data) // 2] ^= 1
            state.write_bytes(data)
        case _:
            (newest / "manifest.json").unlink()
    resumed = train(tmp_path, "--resume", "auto")
    assert resumed.exit_codes == [0], resumed.output
    reason = {
        "torn": "state.ckpt has",
        "flipped": "does not hold the bytes that were written",
        "no manifest": "it has no manifest.json",
    }[damage]
    assert reason in resumed.output
    assert "the one before it is used" in resumed.output
    assert f"goes on after step {SAVE_EVERY} " in resumed.output
