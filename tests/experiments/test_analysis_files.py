"""Every analysis file loads; the analogy file has the expected queries."""

from collections import Counter

import numpy as np
import pytest

from data_modules.benchmarks.analogy_queries import build_analogy_set
from kelip_lightning.analyses.trained_words import CONTROL, NEITHER, PLANTED, read_trained_words
from kelip_lightning.config.analysis import ANALYSES, AnalogyAnalysis, CultureAnalysis, TrainedWordsConfig
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment
from tests.paths import ROOT

FOLDER = ROOT / "experiments" / "analyses"
FILES = {name.replace("-", "_"): schema for name, schema in ANALYSES.items()}
FILES["culture_trained_words"] = ANALYSES["culture"]


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


def test_trained_words_file__at_least_300_pairs_of_trained_words_whose_overlap_varies() -> None:
    settings = load_experiment(FOLDER / "culture_trained_words.yaml", [], CultureAnalysis).experiment.trained_words
    experiment = load_experiment(ROOT / "experiments" / "emoji" / "pretrain.yaml", [], PretrainExperiment).experiment
    assert settings is not None
    words = read_trained_words(experiment.contrastive.data, settings)
    assert len(words.pairs) >= 300
    assert set(words.groups) == {NEITHER}
    overlaps = np.array(words.true_overlap)
    assert np.quantile(overlaps, 0.2) <= 0.4
    assert (overlaps == 1).mean() < 0.5
    found = {(one.ko, one.en): overlap for one, overlap in zip(words.pairs, words.true_overlap, strict=True)}
    # CLDR's keywords: every monkey is one in both languages; 별 is on stars, and English "star" on more.
    assert found["원숭이", "monkey"] == 1
    assert 0 < found["별", "star"] < 1


@pytest.mark.parametrize("seed", range(3))
def test_planted_file__as_many_pairs_as_it_asks_for_under_any_seed(seed: int) -> None:
    file = ROOT / "experiments" / "emoji_planted" / "pretrain.yaml"
    override = f"contrastive.data.planted.seed={seed}"
    data = load_experiment(file, [override], PretrainExperiment).experiment.contrastive.data
    words = read_trained_words(data, TrainedWordsConfig(column="family"))
    assert Counter(words.groups)[PLANTED] == 18
    assert Counter(words.groups)[CONTROL] == 40
    assert {overlap for overlap, group in zip(words.true_overlap, words.groups, strict=True) if group == PLANTED} == {0}
    controls = [overlap for overlap, group in zip(words.true_overlap, words.groups, strict=True) if group == CONTROL]
    assert min(controls) >= 0.8
