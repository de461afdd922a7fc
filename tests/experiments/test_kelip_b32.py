"""The experiments at the paper's scale match the paper."""

import pytest

from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.planning.estimate import StageEstimate
from tests.paths import ROOT

FOLDER = ROOT / "experiments" / "kelip_b32"
PAIRS = 708_000_000 + 476_000_000


def test_kelip_b32__has_the_parameters_of_the_released_model(paper_plan: dict[str, StageEstimate]) -> None:
    expected = {"image_tower": 87_849_216, "text_tower": 88_726_016, "all": 176_575_233}
    assert paper_plan["contrastive"].parameter_sums == expected


def test_kelip_b32__operations(paper_plan: dict[str, StageEstimate]) -> None:
    contrastive, mae = paper_plan["contrastive"].flops, paper_plan["mae"].flops
    assert round(contrastive.one_crop_training / 1e9, 2) == 41.52
    assert round(contrastive.training / 1e9, 1) == 61.3
    assert [(one.name, one.tokens) for one in contrastive.passes] == [
        ("global crop", 50),
        ("local crop", 10),
        ("caption", 77),
    ]
    assert [(one.name, one.tokens) for one in mae.passes] == [("visible patches", 13), ("decoder", 50)]


def test_kelip_b32__hours(paper_plan: dict[str, StageEstimate]) -> None:
    """37.89 billion pairs on 80 A100 at 40 % of 312 TFLOP/s: 64.6 h for 61.31 GFLOP each in the networks.

    The loss adds 6.3 h for 1.00 GFLOP each, three times, at 40 % of 156 TFLOP/s.
    """
    time = paper_plan["contrastive"].throughput
    assert round(time.hours, 1) == 71.0
    assert round(time.loss_share, 3) == 0.089
    assert round(time.samples_per_second_per_device) == 1854


def test_kelip_b32__length(paper_scale: PretrainExperiment) -> None:
    mae, contrastive = paper_scale.mae, paper_scale.contrastive
    assert mae is not None
    assert contrastive.schedule.max_steps == PAIRS * 32 // contrastive.data.global_batch_size
    assert mae.schedule.max_steps == PAIRS // mae.data.global_batch_size
    assert mae.optimizer.learning_rate == pytest.approx(1.5e-4 * mae.data.global_batch_size / 256)


@pytest.mark.parametrize("devices", [8, 16, 32, 64, 80, 128])
def test_kelip_b32__batches_divide(devices: int, paper_scale: PretrainExperiment) -> None:
    assert paper_scale.contrastive.data.global_batch_size % devices == 0
    assert paper_scale.mae is not None
    assert paper_scale.mae.data.global_batch_size % devices == 0


@pytest.mark.parametrize(
    ("file", "schema"), [("mae", MaskedPretrainExperiment), ("contrastive", ContrastiveExperiment)]
)
def test_kelip_b32__a_stage_alone_equals_that_of_pretrain(
    file: str, schema: type[MaskedPretrainExperiment | ContrastiveExperiment], paper_scale: PretrainExperiment
) -> None:
    alone = load_experiment(FOLDER / f"{file}.yaml", [], schema, on_this_machine=False).experiment
    assert alone == getattr(paper_scale, file)


def test_kelip_b32__fits_an_a100_with_every_strategy(paper_plan: dict[str, StageEstimate]) -> None:
    assert all(one.fits for stage in paper_plan.values() for one in stage.memory)
