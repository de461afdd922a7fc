"""The gradient certificate: a part of it in every test run, the whole matrix where slow tests run."""

from collections.abc import Sequence

import pytest
import torch

from kelip_lightning.distributed.gather import gather_rows
from kelip_lightning.losses.config import MatmulPrecision
from tests.distributed.certificate import STRATEGIES, TOLERANCE, WORLDS, Outcome, all_cells, run, table
from tests.distributed.step import Cell

CROPS = (2, 2)
MISTAKES = ("gather without gradient", "gather with own gradient only")

pytest.importorskip("deepspeed", reason="needs the extra deepspeed")


def _assert_all_within_tolerance(outcomes: Sequence[Outcome]) -> None:
    print(table(outcomes))
    assert [str(o.cell) for o in outcomes if not o.worst[1] <= TOLERANCE] == []
    assert [str(o.cell) for o in outcomes if o.step_error is not None and not o.step_error <= TOLERANCE] == []


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Two processes; the mistakes come last with DDP, so that one start of processes serves all."""
    cells = [Cell(2, strategy, 2, 3, CROPS) for strategy in ("deepspeed_stage_3", "deepspeed_stage_2")]
    cells += [Cell(2, "ddp", 1, None, CROPS, mistake) for mistake in MISTAKES]
    halves = Cell(2, "ddp", 2, 3, CROPS, precision=MatmulPrecision.tf32x3)
    return run([*cells, Cell(2, "ddp", 1, None, CROPS), halves, Cell(2, "ddp", 4, 3, CROPS)])


@pytest.mark.distributed
def test_two_processes__every_gradient_equals_that_of_one(outcomes: list[Outcome]) -> None:
    sound = [outcome for outcome in outcomes if outcome.cell.mutation is None]
    assert len(sound) == 5
    assert {"logit_scale", "image_encoder.vit.cls_token", "text_projection.weight"} <= sound[0].gradient_errors.keys()
    _assert_all_within_tolerance(sound)


@pytest.mark.distributed
@pytest.mark.parametrize("mistake", MISTAKES)
def test_two_processes__a_gather_that_loses_gradient_is_noticed(outcomes: list[Outcome], mistake: str) -> None:
    (broken,) = (outcome for outcome in outcomes if outcome.cell.mutation == mistake)
    assert broken.gradient_errors["logit_scale"] < TOLERANCE, "the scale's gradient, like the loss, tells nothing"
    assert broken.gradient_errors["image_projection.weight"] > 1000 * TOLERANCE
    with pytest.raises(AssertionError):
        _assert_all_within_tolerance([broken])


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("world", WORLDS)
def test_whole_matrix(world: int) -> None:
    _assert_all_within_tolerance(run(all_cells([world], STRATEGIES)))


def test_gather_rows__one_process_keeps_its_rows() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
