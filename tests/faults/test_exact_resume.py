"""A run that is killed and resumed repeatedly ends with the same metrics and weights as an uninterrupted one."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kelip_lightning.training.consolidate import consolidate
from tests.faults.experiment import write_experiment
from tests.faults.kill_points import KillPoint, draw_kill_points
from tests.faults.records import WEIGHTS, assert_same_run, final_tensors, read_record, values_of
from tests.faults.runner import kelip


def run_and_kill(
    folder: Path,
    points: list[KillPoint],
    *overrides: str,
    world: int = 1,
    strategy: str = "auto",
) -> tuple[Path, Path]:
    """Train one run without interruption, and one killed at every point; returns the killed and the whole run."""
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", *overrides]
    command += [f"trainer.devices={world}", f"trainer.strategy={strategy}"]
    whole = kelip(*command, "name=whole", log=folder / "whole", world=world)
    assert whole.exit_codes == [0] * world, whole.output
    again = [*command, "name=killed", "--resume", "auto"]
    for number, point in enumerate(points):
        victim = 0 if point.is_on_rank_zero_alone else number % world
        log, mine = folder / str(point), {victim: point}
        killed = kelip(*again, log=log, world=world, sabotage=mine)
        assert killed.exit_codes[victim] == -signal.SIGKILL, f"{point} was not reached:\n{killed.output[-3000:]}"
    last = kelip(*again, log=folder / "last", world=world)
    assert last.exit_codes == [0] * world, last.output
    return folder / "killed", folder / "whole"


def test_resume__three_kills_on_one_process(tmp_path: Path) -> None:
    assert_same_run(*run_and_kill(tmp_path, draw_kill_points(seed=0, count=3), "trainer.accumulate=2"))


def test_resume__byol_s_target_is_restored_and_not_consolidated(tmp_path: Path) -> None:
    byol = [
        "contrastive.self_supervision.method=byol",
        "contrastive.self_supervision.projection_width=16",
        "contrastive.self_supervision.projection_dim=8",
        "contrastive.transform.views.num_views=2",
    ]
    killed, whole = run_and_kill(tmp_path, [KillPoint.at("contrastive", 7)], *byol)
    assert_same_run(killed, whole)
    assert "contrastive/state_dict/self_supervision.target_encoder.vit.pos_embed" in final_tensors(killed)
    consolidate(killed, tmp_path / "weights")
    found, exported = (load_file(file) for file in (tmp_path / "weights" / "model.safetensors", killed / WEIGHTS[1]))
    assert found.keys() == exported.keys()
    assert [name for name, tensor in exported.items() if not torch.equal(found[name], tensor)] == []


def test_resume__moving_average_is_restored(tmp_path: Path) -> None:
    points = [KillPoint.at("mae", 4), KillPoint.at("contrastive", 8)]
    killed, whole = run_and_kill(tmp_path, points, "trainer.ema_decay=0.9")
    assert_same_run(killed, whole)
    before_the_last = min((killed / "contrastive" / "checkpoints").glob("step=*"))  # the last holds only the average
    state = torch.load(before_the_last / "state.ckpt", weights_only=True)
    name = "model.image_projection.weight"
    assert not torch.equal(state["state_dict"][name], state["current_model_state"][name]), "the average is no other"


@pytest.mark.slow
def test_resume__twelve_kills_on_one_process(tmp_path: Path) -> None:
    assert_same_run(*run_and_kill(tmp_path, draw_kill_points(seed=1, count=12), "trainer.accumulate=2"))


@pytest.mark.slow
@pytest.mark.distributed
def test_resume__twelve_kills_on_two_processes(tmp_path: Path) -> None:
    points = draw_kill_points(seed=2, count=12)
    assert_same_run(*run_and_kill(tmp_path, points, "trainer.accumulate=2", world=2, strategy="ddp"))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stage", [1, 2])
def test_resume__six_kills_under_zero(tmp_path: Path, stage: int) -> None:
    pytest.importorskip("deepspeed")
    points = draw_kill_points(seed=2 + stage, count=6, sharded=True)
    strategy = f"deepspeed_stage_{stage}"
    killed, whole = run_and_kill(tmp_path, points, world=2, strategy=strategy)
    assert read_record(killed) == read_record(whole)
    for file in WEIGHTS:
        assert (killed / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.slow
@pytest.mark.distributed
def test_resume__on_other_numbers_of_processes(tmp_path: Path) -> None:
    """Two processes, then one, then two: the gradients and weights of one process throughout, up to rounding.

    A loss is logged by rank zero for its own share, the norm of the gradient for the whole batch.
    """
    # A fresh class token is all but zero, so that a LayerNorm before the blocks would make its gradient, and the
    # rounding in it, thousands of times as large as all others.
    model = ["image_encoder.pre_norm=false", "image_encoder.dropout_rate=0.1", "image_encoder.drop_path_rate=0.1"]
    # Adam makes whole steps of gradients that are nothing but rounding, so the steps are small.
    small = "optimizer.learning_rate=1e-5"
    command = ["pretrain", str(write_experiment(tmp_path)), f"output_dir={tmp_path}", *model, small]
    whole = kelip(*command, "name=whole", log=tmp_path / "whole")
    assert whole.exit_codes == [0], whole.output
    again = [*command, "name=killed", "--resume", "auto"]
    for world, point in ((2, KillPoint.at("mae", 4)), (1, KillPoint.at("contrastive", 5)), (2, None)):
        ddp = [f"trainer.devices={world}", "trainer.strategy=ddp"] if world > 1 else []
        part = kelip(*again, *ddp, log=tmp_path / f"part-{point}", world=world, sabotage={0: point} if point else {})
        assert part.exit_codes[0] == (-signal.SIGKILL if point else 0), part.output
    expected, found = read_record(tmp_path / "whole"), read_record(tmp_path / "killed")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for key, tolerance in (("gradient_norm", 1e-5), ("learning_rate", 0.0)):
        ours, theirs = (values_of(record, key) for record in (found, expected))
        assert ours == pytest.approx(theirs, rel=tolerance), key
    alone = [("mae", step) for step in range(3, 6)] + [("contrastive", step) for step in range(3)]  # on one process
    ours, theirs = (values_of(record, "loss") for record in (found, expected))
    assert [ours[place] for place in alone] == pytest.approx([theirs[place] for place in alone], rel=1e-6)
    for file in WEIGHTS:
        weights = load_file(tmp_path / "killed" / file)
        for name, tensor in load_file(tmp_path / "whole" / file).items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6)
