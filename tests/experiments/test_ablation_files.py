"""Every study: each variant loads and passes all rules at every scale, without data."""

from pathlib import Path

import pytest

from kelip_lightning.ablations.config import load_ablation
from kelip_lightning.ablations.study import Choice, Study, open_study
from tests.paths import ROOT

FILES = sorted((ROOT / "experiments" / "ablations").glob("*.yaml"))
SCALES = [(file.name, scale) for file in FILES for scale in load_ablation(file).scales]


def _open(name: str, choice: Choice) -> Study:
    return open_study(ROOT / "experiments" / "ablations" / name, choice, on_this_machine=False)


def test_studies__are_the_four_questions() -> None:
    names = {file.stem for file in FILES}
    assert names == {
        *("training_schemes", "mae_settings", "augmentation", "cross_lingual", "language_mix", "optimizer", "length")
    }
    assert {scale for _, scale in SCALES} == {"emoji", "kelip_b32"}


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_study__every_variant_loads_and_differs(name: str, scale: str) -> None:
    study = _open(name, Choice(scale=scale, seeds=2))
    assert len(study.runs) == 2 * len(study.variants) == len({run.fingerprint for run in study.runs})
    for run in study.runs:
        assert run.differences or run.variant == study.config.reference or not run.overrides[:-1]
        assert all(stage.tokens_forwarded > 0 for stage in run.plan.stages.values())


@pytest.mark.parametrize("file", [file for file in FILES if file.stem != "length"], ids=lambda file: file.stem)
def test_study__quick_settings_load(file: Path) -> None:
    quick, whole = (_open(file.name, Choice(seeds=2, quick=quick)) for quick in (True, False))
    assert quick.name == f"{file.stem}-quick"
    for short, long in zip(quick.runs, whole.runs, strict=True):
        assert short.plan.stages["contrastive"].max_steps < long.plan.stages["contrastive"].max_steps / 5
