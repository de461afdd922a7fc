"""From one row of a source, whatever its format, to a record; and the language that it is in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_modules.faults import SampleFault, sample_errors
from data_modules.records import LANGUAGES, PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.text.cleaning import clean_texts, detect_language, language_code, split_keywords

Ids = NDArray[np.int64]
UNKNOWN = len(LANGUAGES)
"""Stands for a row in no known language, where rows are marked with an index into `LANGUAGES`."""


class Rows(Protocol):
    """Some of the indices of a source, in ascending order."""

    def __len__(self) -> int:
        """How many."""
        ...

    def take(self, positions: Ids) -> Ids:
        """The indices at these positions, int64 (N,) each."""
        ...


class EveryNth:
    """The indices first, first + stride, first + 2 stride, ..."""

    def __init__(self, first: int, stride: int, length: int) -> None:
        self.first, self.stride, self.length = first, stride, length

    def __len__(self) -> int:
        return self.length

    def take(self, positions: Ids) -> Ids:
        """The indices at these positions."""
        return self.first + self.stride * positions


def pairs_per_row(config: SourceConfig) -> int:
    """Pairs that one row gives: one per language of `captions`, one with `caption_fields`."""
    return len(config.captions) or 1


def languages_of(config: SourceConfig) -> list[str]:
    """The languages of `captions` in the order of `LANGUAGES`: pair i of a row is in language i."""
    return [language for language in LANGUAGES if language in config.captions]


def needs_language_marks(config: SourceConfig) -> bool:
    """Whether only the rows themselves tell their language."""
    return not config.captions and (config.language_field is not None or config.language == "detect")


def row_language(config: SourceConfig, row: Mapping[str, Any]) -> str:
    """The language of a row's `caption_fields`.

    Raises:
        SampleFault: It is neither Korean nor English, or cannot be told.
    """
    if config.language_field is not None:
        return language_code(row.get(config.language_field))
    if config.language != "detect":
        return config.language
    return detect_language(_captions(row, config.caption_fields, [])[0], config.min_hangul_share)


def language_mark(config: SourceConfig, row: Mapping[str, Any]) -> int:
    """The index of the row's language, `UNKNOWN` where it has none."""
    try:
        with sample_errors():
            return LANGUAGES.index(row_language(config, row))
    except SampleFault:
        return UNKNOWN


def row_captions(
    config: SourceConfig, row: Mapping[str, Any], pair: int, repairs: list[str]
) -> tuple[str, tuple[str, ...]]:
    """Language and captions (at least one) of pair `pair` of a row.

    Raises:
        SampleFault: The row has no caption or no known language.
    """
    if config.captions:
        language = languages_of(config)[pair]
        return language, _captions(row, [config.captions[language]], repairs)
    language = row_language(config, row)
    return language, _captions(row, config.caption_fields, repairs)


def _captions(row: Mapping[str, Any], fields: Sequence[str], repairs: list[str]) -> tuple[str, ...]:
    texts = [text for name in fields for text in clean_texts(row.get(name), name, repairs)]
    if not texts:
        raise SampleFault("caption_missing", "the caption is empty")
    return tuple(texts)


def _keywords(config: SourceConfig, row: Mapping[str, Any], language: str, repairs: list[str]) -> tuple[str, ...]:
    field = config.keywords.get(language)
    return split_keywords(row.get(field), config.keyword_separator, field, repairs) if field else ()


def make_record(
    config: SourceConfig,
    *,
    key: str,
    image: bytes,
    row: Mapping[str, Any],
    pair: int,
    file_name: str = "",
    attributes: Iterable[tuple[str, str]] = (),
) -> PairRecord:
    """The record of pair `pair` of a row.

    Raises:
        SampleFault: The row has no image, no caption or no known language, or a field that holds no text; with the key.
    """
    repairs: list[str] = []
    with sample_errors(key):
        if not image:
            raise SampleFault("image_missing", "the image has no bytes")
        language, captions = row_captions(config, row, pair, repairs)
        keywords = _keywords(config, row, language, repairs)
    return PairRecord(
        key=key,
        image=image,
        file_name=file_name,
        language=language,
        caption=captions[0],
        more_captions=captions[1:],
        keywords=keywords,
        attributes=dict(attributes),
        repairs=tuple(dict.fromkeys(repairs)),
    )


def row_texts(config: SourceConfig, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every (language, text) of a row: captions and keywords, as `make_record` would give them."""
    for pair in range(pairs_per_row(config)):
        try:
            record = make_record(config, key="", image=b"-", row=row, pair=pair)
        except SampleFault:
            continue
        for text in (record.caption, *record.more_captions, *record.keywords):
            yield record.language, text
