"""The experiments at the paper's scale, read once."""

from pathlib import Path

import pytest

from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def paper_scale() -> PretrainExperiment:
    """experiments/kelip_b32/pretrain.yaml; not to be changed."""
    file = ROOT / "experiments" / "kelip_b32" / "pretrain.yaml"
    return load_experiment(file, [], PretrainExperiment, on_this_machine=False).experiment
