"""Every rule on the self-supervised loss, broken once."""

from pathlib import Path

import pytest

from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import ConfigError
from kelip_lightning.models.self_supervision import SelfSupervisionMethod
from kelip_lightning.planning.stage_plan import make_stage_plan

VIEWS = "transform.views.num_views=2"
BYOL = [VIEWS, "self_supervision.method=byol"]
BROKEN = [
    ([VIEWS], "transform.views.num_views = 2, but self_supervision.method = none reads no views"),
    (
        ["self_supervision.method=simclr"],
        "transform.views.num_views = 0, but self_supervision.method = simclr compares",
    ),
    (["self_supervision.method=byol", "transform.views.num_views=3"], "compares exactly two views; set it to 2"),
    ([*BYOL, "init.lock_image_encoder=true"], "self_supervision.method = byol would train nothing but its own heads"),
    ([*BYOL, "trainer.strategy=deepspeed_stage_3"], "which trainer.strategy = deepspeed_stage_3 would cast"),
    ([*BYOL, "trainer.precision=bf16-true"], "would stand still under trainer.precision = bf16-true"),
    ([*BYOL, "self_supervision.temperature=0"], "temperature = 0.0 must be above 0"),
    ([*BYOL, "self_supervision.method=dino"], "self_supervision.method"),
]


def _load(folder: Path, overrides: list[str]) -> ContrastiveExperiment:
    return load_experiment(folder / "contrastive.yaml", overrides, ContrastiveExperiment).experiment


@pytest.mark.parametrize(("overrides", "expected"), BROKEN)
def test_rules(experiments: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(experiments, overrides)
    assert any(expected in one for one in caught.value.problems), caught.value.problems
    assert all("\n" not in one for one in caught.value.problems)


def test_rules__simclr_may_use_deepspeed(experiments: Path) -> None:
    overrides = [VIEWS, "self_supervision.method=simclr", "trainer.strategy=deepspeed_stage_3"]
    assert _load(experiments, overrides).self_supervision.method is SelfSupervisionMethod.simclr


def test_plan__counts_views_and_heads(experiments: Path) -> None:
    sizes = ["self_supervision.projection_width=10", "self_supervision.projection_dim=5"]
    plain = make_stage_plan(_load(experiments, []), None)
    with_views = make_stage_plan(_load(experiments, [*BYOL, *sizes]), None)
    assert with_views.images_forwarded - plain.images_forwarded == 2 * plain.samples_seen
    assert with_views.tokens_forwarded - plain.tokens_forwarded == 2 * plain.samples_seen * plain.tokens_per_global_crop
    head, predictor = 32 * 10 + 2 * 10 + 10 * 5, 5 * 10 + 2 * 10 + 10 * 5
    target = plain.parameters["image_encoder"] + head
    assert with_views.parameters == plain.parameters | {"self_supervision": head + predictor + target}
