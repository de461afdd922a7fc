"""Settings of the training data: values that are refused."""

from typing import Any

import pytest

from data_modules.config import CorruptSampleConfig, ImageTextDataConfig, OrderConfig
from data_modules.sources.config import LanguageRule, SourceConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, "temperature = 0.5 must be at least 1"),
        ({"language_weights": {"fr": 1.0}}, "language_weights names 'fr'"),
        ({"language_weights": {"ko": 0.0}}, r"language_weights\.ko = 0\.0"),
        ({"shuffle_window": -1}, "shuffle_window = -1"),
        ({"run_length": 0}, "run_length = 0"),
    ],
)
def test_order_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrderConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_share": 1.5}, r"max_share = 1.5 must be in \[0, 1\]"), ({"max_image_pixels": 0}, "max_image_pixels = 0")],
)
def test_corrupt_sample_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorruptSampleConfig(**options)


@pytest.mark.parametrize("rule", list(LanguageRule))
def test_image_text_data_config__shards_have_no_columns(rule: LanguageRule) -> None:
    sources = {"web": SourceConfig(files=["a.tar"], caption_fields=["txt"])}
    column = {"by_concept": "concept", "by_design": "design"}.get(rule.name)
    assert rule.column == column
    if column is None:
        ImageTextDataConfig(sources=sources, languages=rule)
        return
    with pytest.raises(ValueError, match=f"languages = {rule.name} reads the column '{column}', and source 'web' is"):
        ImageTextDataConfig(sources=sources, languages=rule)
