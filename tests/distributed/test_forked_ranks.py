"""Runs whose ranks are forks of one process: they train what one process trains, and none is left, whatever happens."""

import errno
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data_modules.errors import DataError
from tests.faults.experiment import CONTRASTIVE_STEPS, MAE_STEPS, write_experiment
from tests.faults.kill_points import KillPoint
from tests.faults.processes import end_group, members, needs_proc, wait_until
from tests.faults.records import WEIGHTS, assert_same_run, read_record, values_of
from tests.faults.runner import Outcome, Sabotage, kelip
from tests.faults.sabotage import STEP, FailAt, Hang, InOrder, JoinGroup, OnForkedRank, SignalAt, SignalGroupAt

pytestmark = [pytest.mark.distributed, needs_proc]

TWO = "trainer.devices=2"
STAGES = "kelip_lightning.training.stages"
LIKE_ROUNDING = ["image_encoder.pre_norm=false", "optimizer.learning_rate=1e-5"]
"""For comparisons: the gradient of a fresh class token before a LayerNorm would be large and uncertain, and Adam makes
whole steps of gradients that are nothing but rounding, so the steps are small."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of the tiny experiment in one folder."""

    folder: Path
    numbers: Iterator[int]

    def train(self, *overrides: str, fault: Sabotage | None = None, cores: int = 2) -> Outcome:
        """Train in a process group of its own, and check that no process of it is left."""
        log = self.folder / f"log-{next(self.numbers)}"
        leader = log.with_suffix(".leader")
        in_group: Sabotage = JoinGroup(leader, is_leader=True)
        command = ["pretrain", str(self.folder / "pretrain.yaml"), f"output_dir={self.folder}", *LIKE_ROUNDING]
        try:
            ended = kelip(
                *command,
                *overrides,
                log=log,
                sabotage={0: in_group if fault is None else InOrder((in_group, fault))},
                environment={"OMP_NUM_THREADS": str(cores)},
            )
            wait_until(lambda: not members(int(leader.read_text())), "all processes to end", seconds=15)
        finally:
            if leader.is_file():
                end_group(int(leader.read_text()))
        # Other ranks may print after the first has died.
        return replace(ended, output=log.with_name(f"{log.name}-0.txt").read_text(encoding="utf-8"))

    def path(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    write_experiment(folder)
    return Runs(folder, count())


@pytest.fixture(scope="module")
def alone(runs: Runs) -> Path:
    """A whole run on one process."""
    ended = runs.train("name=alone", cores=1)
    assert ended.exit_codes == [0], ended.output
    return runs.path("alone")


@pytest.fixture(scope="module")
def forked(runs: Runs) -> tuple[Path, str]:
    """A whole run on two ranks, and what it printed."""
    ended = runs.train("name=forked", TWO)
    assert ended.exit_codes == [0], ended.output
    return runs.path("forked"), ended.output


def weights_of(run: Path) -> dict[str, Tensor]:
    return {f"{file}/{name}": one for file in WEIGHTS for name, one in load_file(run / file).items()}


def assert_same_training(run: Path, reference: Path) -> None:
    """Metrics of each step and final weights, up to the rounding of float32."""
    found, expected = read_record(run), read_record(reference)
    assert [one["step"] for one in found] == [one["step"] for one in expected]
    for key in ("loss", "gradient_norm"):
        ours, theirs = (values_of(record, key) for record in (found, expected))
        assert len(ours) == MAE_STEPS + CONTRASTIVE_STEPS
        assert ours == pytest.approx(theirs, rel=1e-5), key
    weights = weights_of(run)
    for name, tensor in weights_of(reference).items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_two_ranks__train_what_one_process_trains(alone: Path, forked: tuple[Path, str]) -> None:
    run, _ = forked
    assert_same_training(run, alone)
    manifest = json.loads((run / "contrastive/checkpoints" / f"step={CONTRASTIVE_STEPS:07d}/manifest.json").read_text())
    assert manifest["world_size"] == 2
    assert json.loads((run / "report.json").read_text())["metrics"]


def test_two_ranks__print_once(forked: tuple[Path, str]) -> None:
    run, output = forked
    for text in (str(run / "mae/image_encoder: ").removesuffix(" "), "final evaluation", "batch size per device"):
        assert output.count(text) == 1, text
    assert "Warning" not in output
    assert "rank" not in output


def test_two_ranks__with_loader_processes_too(runs: Runs, forked: tuple[Path, str]) -> None:
    ended = runs.train("name=loaders", TWO, "data.num_workers=1")
    assert ended.exit_codes == [0], ended.output
    assert_same_run(runs.path("loaders"), forked[0])


@pytest.mark.parametrize(("cores", "world"), [(1, 1), (2, 2)])
def test_auto__a_rank_per_core(runs: Runs, cores: int, world: int) -> None:
    name, batch = f"auto-{cores}", "data.global_batch_size=64"
    ended = runs.train(f"name={name}", "trainer.devices=auto", batch, "mae=null", "schedule.max_steps=3", cores=cores)
    assert ended.exit_codes == [0], ended.output
    manifest = runs.path(name) / "contrastive/checkpoints/step=0000003/manifest.json"
    assert json.loads(manifest.read_text(encoding="utf-8"))["world_size"] == world
    config = (runs.path(name) / "config.yaml").read_text(encoding="utf-8")
    assert "devices: auto" in config, "a resumed run fits its machine"


def test_interrupted__twice_and_resumed_is_bit_for_bit_the_whole_run(runs: Runs, forked: tuple[Path, str]) -> None:
    command = ["name=stopped", TWO, "--resume", "auto"]
    # At the last step of MAE pre-training, after which no step asks for signals.
    first = runs.train(*command, fault=OnForkedRank(0, SignalAt(signal.SIGTERM)))
    assert first.exit_codes == [75], first.output
    assert (runs.path("stopped") / "mae/checkpoints" / f"step={MAE_STEPS:07d}").is_dir()
    second = runs.train(*command, fault=OnForkedRank(0, SignalGroupAt(signal.SIGINT)))
    assert second.exit_codes == [130], second.output
    assert second.output.count("kelip: interrupted: stopped after step") == 1
    for stopped in (first, second):
        assert stopped.output.count("kelip: ") == 1, "one rank tells it"
        assert "--resume auto" in stopped.output
        assert "Traceback" not in stopped.output
    last = runs.train(*command)
    assert last.exit_codes == [0], last.output
    assert last.output.count("contrastive resumes after step") == 1
    assert_same_run(runs.path("stopped"), forked[0])


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank__ends_the_run_with_the_cause(runs: Runs, victim: int) -> None:
    name = f"killed-{victim}"
    ended = runs.train(f"name={name}", TWO, "mae=null", fault=OnForkedRank(victim, KillPoint.at("contrastive", STEP)))
    assert ended.exit_codes == [-signal.SIGKILL if victim == 0 else 1], ended.output
    assert ended.output.count("because another process of the run died or does not respond") == 1
    assert f"kelip: rank {1 - victim} stops" in ended.output
    assert ("rank 1 was ended by SIGKILL" in ended.output) is (victim == 1)
    assert "--resume auto" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.slow
def test_hung_rank__ends_the_run_in_the_stated_time(runs: Runs) -> None:
    ended = runs.train("name=hung", TWO, "mae=null", "trainer.timeout_minutes=0.15", fault=OnForkedRank(1, Hang()))
    assert ended.exit_codes == [1], ended.output
    assert "kelip: rank 0 stops, because another process of the run died or does not respond (" in ended.output


FULL = OSError(errno.ENOSPC, "No space left on device")
FAILURES = {
    "full disk in the export": (FailAt(STAGES, "save_dual_encoder", FULL), 1, "kelip: the disk is full"),
    "bug in the export": (FailAt(STAGES, "write_items", ZeroDivisionError("a bug")), 1, "ZeroDivisionError: a bug"),
    "data of one rank": (FailAt(STAGES, "build_image_text_data", DataError("no data")), 2, "kelip: no data"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_error_of_the_first_rank__is_told_once(runs: Runs, what: str) -> None:
    fault, code, message = FAILURES[what]
    ended = runs.train(f"name=first-{what.replace(' ', '-')}", TWO, "mae=null", fault=OnForkedRank(0, fault))
    assert ended.exit_codes == [code], ended.output
    assert ended.output.count(message) == 1
    assert "another process" not in ended.output, "the other rank, which waits for it, tells nothing"


def test_error_of_all_ranks__is_told_once(runs: Runs) -> None:
    fault, code, message = FAILURES["data of one rank"]
    ended = runs.train("name=all", TWO, "mae=null", fault=fault)
    assert ended.exit_codes == [code], ended.output
    assert ended.output.count("no data") == 1
    assert message in ended.output


@pytest.mark.parametrize("what", ["data of one rank", "bug"])
def test_error_of_another_rank__is_told_with_the_end_of_the_run(runs: Runs, what: str) -> None:
    bug = FailAt(STAGES, "build_contrastive_module", ZeroDivisionError("a bug"))
    fault, code, message = FAILURES.get(what, (bug, 1, "ZeroDivisionError: a bug"))
    ended = runs.train(f"name=other-{what.replace(' ', '-')}", TWO, "mae=null", fault=OnForkedRank(1, fault))
    assert ended.exit_codes == [1], ended.output
    assert ended.output.count(message) == 1
    assert f"rank 1 ended with exit code {code}" in ended.output
    assert "kelip: rank 0 stops, because another process of the run died" in ended.output


def test_muon__two_ranks_train_what_one_trains(runs: Runs) -> None:
    """Newton–Schulz rounds to bfloat16: the weights differ by at most a tenth of their way from the start."""
    muon = ["mae=null", "contrastive.optimizer.name=muon", "optimizer.learning_rate=1e-3"]
    weights = []
    for name, overrides in (("one", []), ("two", [TWO]), ("start", ["optimizer.learning_rate=1e-12"])):
        ended = runs.train(f"name=muon-{name}", *muon, *overrides)
        assert ended.exit_codes == [0], ended.output
        weights.append(load_file(runs.path(f"muon-{name}") / WEIGHTS[1]))
    one, two, start = weights
    # Gradients of keys' biases are rounding alone, which AdamW scales up.
    for name, tensor in ((name, tensor) for name, tensor in one.items() if tensor.ndim > 1):
        assert (two[name] - tensor).norm() <= (tensor - start[name]).norm() / 10 + 1e-7, name
