"""Settings of a source that are wrong, or without effect beside the others."""

from typing import Any

import pytest

from data_modules.sources.config import SourceConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": {"ko": "a"}, "files": []}, "files is empty"),
        ({"captions": {"ko": "a"}, "caption_fields": ["txt"]}, "captions and caption_fields are both given"),
        ({"language": "ko"}, "language is about captions, and neither captions nor caption_fields names any"),
        ({"keywords": {"ko": "words"}}, "keywords is about captions, and neither"),
        ({"check_languages": False}, "check_languages is about captions, and neither"),
        ({"encoding": "cp94"}, "encoding = 'cp94' is not known: use utf-8, cp949"),
        ({"separator": ";;"}, "separator = ';;' must be one character"),
        ({"files": ["a.tsv"], "separator": ";"}, "separator = ';' is about CSV files, and files names none"),
        ({"files": ["a.jsonl"], "encoding": "cp949"}, "encoding = 'cp949' is about CSV and TSV files, and files"),
        ({"captions": {"fr": "nom"}}, "language 'fr' is not known"),
        ({"captions": {"ko": "a"}, "keywords": {"de": "worte"}}, "language 'de' is not known"),
        ({"caption_fields": ["a"], "language": "fr"}, "language = 'fr' must be ko, en or detect"),
        ({"caption_fields": ["a"], "min_hangul_share": 0.0}, "min_hangul_share = 0.0"),
        ({"captions": {"ko": "a"}, "stream_length": 0}, "stream_length = 0"),
        ({"captions": {"ko": "a"}, "weight": 0.0}, "weight = 0.0 must be above 0"),
        ({"captions": {"ko": "a"}, "read_timeout_seconds": 0}, "read_timeout_seconds = 0 must be above 0"),
        ({"captions": {"ko": "a"}, "language": "ko"}, "language is about caption_fields"),
        ({"captions": {"ko": "a"}, "language_field": "l"}, "language_field is about caption_fields"),
        ({"captions": {"ko": "a"}, "min_hangul_share": 0.5}, "min_hangul_share is about caption_fields"),
        ({"caption_fields": ["a"], "language": "ko", "language_field": "l"}, "language = 'ko' has no effect"),
        ({"caption_fields": ["a"], "language": "ko", "min_hangul_share": 0.5}, "min_hangul_share is for language"),
        ({"captions": {"ko": "a"}, "keywords": {"en": "b"}}, "keywords names 'en', a language without captions"),
        ({"caption_fields": ["a"], "language": "ko", "keywords": {"en": "b"}}, "keywords names 'en'"),
        ({"captions": {"ko": "a"}, "keyword_separator": ","}, "keyword_separator = ',' is about keywords"),
        ({"captions": {"ko": "a"}, "keywords": {"ko": "b"}, "keyword_separator": ""}, "keyword_separator is empty"),
        ({"captions": {"ko": "a"}, "files": ["a.csv", "b.tar"]}, "files mixes shards and table"),
    ],
)
def test_source_config__unusable_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(**{"files": ["a.csv"]} | settings)
