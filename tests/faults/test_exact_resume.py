"""A run that is killed and resumed, again and again, ends with the very numbers of one that was left alone."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.experiment import write_experiment
from tests.faults.kill_points import KillPoint, draw_kill_points
from tests.faults.runner import kelip

CLOCK = ("train/pairs_per_second", "train/data_wait_share")
"""What the clock says is different every time."""


def read_record(run: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl without the clock's figures."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def final_tensors(run: Path) -> dict[str, Any]:
    """Weights and optimizer moments of the last checkpoint of either stage."""
    found: dict[str, Any] = {}
    for stage in ("mae", "contrastive"):
        newest = max((run / stage / "checkpoints").glob("step=*"))
        state = torch.load(newest / "state.ckpt", weights_only=True)
        found |= {f"{stage}/{name}": tensor for name, tensor in state["state_dict"].items()}
        for number, moments in state["optimizer_states"][0]["state"].items():
            found |= {f"{stage}/{number}/{name}": torch.as_tensor(one) for name, one in moments.items()}
    return found


def assert_same_run(resumed: Path, whole: Path) -> None:
    """Losses, evaluations, weights and moments: bit for bit."""
    assert read_record(resumed) == read_record(whole)
    expected, found = final_tensors(whole), final_tensors(resumed)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []
    for file in ("mae/image_encoder/model.safetensors", "contrastive/dual_encoder/model.safetensors"):
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    reports = [json.loads((run / "report.json").read_text(encoding="utf-8")) for run in (resumed, whole)]
    assert reports[0]["metrics"] == reports[1]["metrics"]


def run_and_kill(folder: Path, points: list[KillPoint], *overrides: str, world: int = 1) -> tuple[Path, Path]:
    """One run left alone, and one killed at every point; returns both folders."""
    experiment = write_experiment(folder)
    command = ["pretrain", str(experiment), f"output_dir={folder}", *overrides]
    if world > 1:
        command += [f"trainer.devices={world}", "trainer.strategy=ddp"]
    whole = kelip(*command, "name=whole", log=folder / "whole", world=world)
    assert whole.exit_codes == [0] * world, whole.output
    for number, point in enumerate(points):
        victim = number % world if "report" not in str(point) and "evaluation" not in str(point) else 0
        if str(point).endswith(("half_written", "before_manifest", "after_rename")):
            victim = 0
        killed = kelip(
            *command, "name=killed", "--resume", "auto", log=folder / str(point), world=world, sabotage={victim: point}
        )
        assert killed.exit_codes[victim] == -signal.SIGKILL, f"{point} was not reached:\n{killed.output[-3000:]}"
    last = kelip(*command, "name=killed", "--resume", "auto", log=folder / "last", world=world)
    assert last.exit_codes == [0] * world, last.output
    return folder / "killed", folder / "whole"


def test_resume__three_kills_on_one_process(tmp_path: Path) -> None:
    assert_same_run(*run_and_kill(tmp_path, draw_kill_points(seed=0, count=3), "trainer.accumulate=2"))


@pytest.mark.slow
def test_resume__twelve_kills_on_one_process(tmp_path: Path) -> None:
    assert_same_run(*run_and_kill(tmp_path, draw_kill_points(seed=1, count=12), "trainer.accumulate=2"))


@pytest.mark.slow
@pytest.mark.distributed
def test_resume__twelve_kills_on_two_processes(tmp_path: Path) -> None:
    points = draw_kill_points(seed=2, count=12)
    assert_same_run(*run_and_kill(tmp_path, points, "trainer.accumulate=2", world=2))
