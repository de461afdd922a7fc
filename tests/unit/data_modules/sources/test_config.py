"""A source's settings are checked when they are made."""

from typing import Any

import pytest

from data_modules.sources.config import SourceConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": []}, "files is empty"),
        ({"captions": {}}, "captions is empty"),
        ({"caption_fields": ["txt"]}, "captions are both given"),
        ({"language": "fr"}, "language = 'fr' must be ko, en or detect"),
        ({"min_hangul_share": 0.0}, "min_hangul_share = 0.0"),
        ({"stream_length": 0}, "stream_length = 0"),
        ({"captions": {"fr": "nom"}}, "language 'fr' is not known"),
        ({"keywords": {"de": "worte"}}, "language 'de' is not known"),
        ({"weight": 0.0}, "weight = 0.0 must be above 0"),
    ],
)
def test_source_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(**{"files": ["a.parquet"], "captions": {"ko": "name_ko"}} | options)
