"""Every analysis file loads; the analogy file has the expected queries."""

from collections import Counter

import pytest

from data_modules.benchmarks.analogy_queries import build_analogy_set
from kelip_lightning.config.analysis import ANALYSES, AnalogyAnalysis
from kelip_lightning.config.load import load_experiment
from tests.paths import ROOT

FOLDER = ROOT / "experiments" / "analyses"
FILES = {name.replace("-", "_"): schema for name, schema in ANALYSES.items()}


def test_analysis_files__are_named_after_the_analyses() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_analysis_file__loads(name: str) -> None:
    loaded = load_experiment(FOLDER / f"{name}.yaml", [], FILES[name])
    assert isinstance(loaded.experiment, FILES[name])


def test_analogy_file__every_relation_has_queries_in_the_unseen_design() -> None:
    settings = load_experiment(FOLDER / "analogy.yaml", [], AnalogyAnalysis).experiment
    built = build_analogy_set("unseen_design", settings.sets["unseen_design"], 8)
    counts = Counter(query.relation for query in built.queries)
    assert set(counts) == {"gender", "skin_tone", "hair", "profession", "direction"}
    # Three gender forms, six tones, four changes of hair; 16 professions in three forms and six tones.
    assert counts["hair"] == 3 * 6 * 4
    assert counts["profession"] <= 16 * 3 * 6
    assert min(counts.values()) >= 50
