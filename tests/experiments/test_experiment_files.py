"""Every experiment that ships loads, passes all rules, and has a plan."""

from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.config.experiment import (
    SCHEMAS,
    ContrastiveExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.planning.stage_plan import make_plan, stages_of
from tests.paths import ROOT

SCHEMA_OF = {
    "mae.yaml": MaskedPretrainExperiment,
    "contrastive.yaml": ContrastiveExperiment,
    "pretrain.yaml": PretrainExperiment,
}
# Analyses, studies and sections of models have tests of their own: test_analysis_files.py, test_ablation_files.py,
# test_model_files.py.
FILES = sorted(
    file.relative_to(ROOT)
    for file in (ROOT / "experiments").rglob("*.yaml")
    if file.parent.name not in ("models", "analyses", "ablations")
)
RUNNABLE = [file for file in FILES if file.name in SCHEMA_OF]


def test_experiments__are_known_by_their_names() -> None:
    parts = {file for file in FILES if file.name not in {*SCHEMA_OF, "base.yaml"}}
    assert RUNNABLE
    assert not parts, "name it mae.yaml, contrastive.yaml, pretrain.yaml, or base.yaml if it cannot run alone"


@pytest.mark.parametrize("file", RUNNABLE, ids=str)
def test_experiment__loads_and_has_a_plan(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    schema: type[Any] = SCHEMA_OF[file.name]
    assert find_schema(file, SCHEMAS) is schema
    # Only the embedded corpus ships; other experiments name data and devices that are elsewhere.
    on_this_machine = file.parts[1].startswith("emoji")
    loaded = load_experiment(file, [], schema, on_this_machine=on_this_machine)
    plan = make_plan(loaded.experiment)
    assert list(plan.stages) == list(stages_of(loaded.experiment))
    assert all(stage.num_parameters > 0 for stage in plan.stages.values())
