"""The experiments at the paper's scale, read and planned once."""

import pytest

from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.planning.estimate import StageEstimate, estimate
from tests.paths import ROOT


@pytest.fixture(scope="session")
def paper_scale() -> PretrainExperiment:
    """experiments/kelip_b32/pretrain.yaml; do not modify."""
    file = ROOT / "experiments" / "kelip_b32" / "pretrain.yaml"
    return load_experiment(file, [], PretrainExperiment, on_this_machine=False).experiment


@pytest.fixture(scope="session")
def paper_plan(paper_scale: PretrainExperiment) -> dict[str, StageEstimate]:
    """The estimate of `kelip plan` for it."""
    return estimate(paper_scale)
