"""Rules on the settings of analyses."""

from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.config.analysis import ANALYSES, AnalogyAnalysis, CultureAnalysis
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import ConfigError

GALLERY: Any = None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": {"ko": ["{}"]}}, "templates must be given in ko and en"),
        ({"templates": {"ko": ["{}"], "en": ["a photo"]}}, "templates: the template 'a photo' has no slots"),
        ({"templates": {"ko": ["{}{는/은}"], "en": ["{}"]}}, "has the unknown slot {는/은}"),
    ],
)
def test_culture_analysis__rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CultureAnalysis(word_pairs="w", gallery=GALLERY, **options)


def test_analogy_analysis__needs_a_set() -> None:
    with pytest.raises(ValueError, match="sets is empty"):
        AnalogyAnalysis(sets={})


def test_load_experiment__problems_of_an_analysis_file_name_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "culture.yaml"
    file.write_text("word_pairs: w.yaml\ngalery: {files: [a]}\nresampling: {num_resamples: 5}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_experiment(file, ["top_k=many"], ANALYSES["culture"])
    message = str(caught.value)
    assert "galery is not a known key; did you mean gallery?" in message
    assert "gallery is missing" in message
    assert "top_k = 'many' must be a whole number" in message
    assert "resampling.num_resamples = 5 must be at least 100" in message
