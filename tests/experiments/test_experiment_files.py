"""Every experiment loads, passes all rules, and has a plan."""

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
FILES = sorted(
    file.relative_to(ROOT)
    for file in (ROOT / "experiments").rglob("*.yaml")
    if file.parent.name not in ("models", "analyses", "ablations", "evaluation")
)
RUNNABLE = [file for file in FILES if file.name in SCHEMA_OF]


def test_experiments__have_one_of_the_known_names() -> None:
    parts = {file for file in FILES if file.name not in {*SCHEMA_OF, "base.yaml"}}
    assert RUNNABLE
    assert not parts, "name it mae.yaml, contrastive.yaml, pretrain.yaml, or base.yaml if it cannot run alone"


@pytest.mark.parametrize("file", RUNNABLE, ids=str)
def test_experiment__loads_and_has_a_plan(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    schema: type[Any] = SCHEMA_OF[file.name]
    assert find_schema(file, SCHEMAS) is schema
    # Only the embedded corpus is in the repository.
    on_this_machine = file.parts[1].startswith("emoji")
    loaded = load_experiment(file, [], schema, on_this_machine=on_this_machine)
    plan = make_plan(loaded.experiment)
    assert list(plan.stages) == list(stages_of(loaded.experiment))
    assert all(stage.num_parameters > 0 for stage in plan.stages.values())
