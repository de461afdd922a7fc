"""The interface of every source of pairs, and how one row of it, whatever its format, becomes records."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_modules.faults import FaultReport, SampleFault, sample_errors
from data_modules.languages import LANGUAGES
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.text.cleaning import clean_texts, detect_language, language_code, split_keywords

Ids = NDArray[np.int64]
UNKNOWN = len(LANGUAGES)
"""Mark of a row in no known language; other marks are indices into `LANGUAGES`."""


class Rows(Protocol):
    """Some of the indices of a source, in ascending order."""

    def __len__(self) -> int: ...

    def take(self, positions: Ids) -> Ids:
        """The indices at these positions, int64 (N,) each."""


class PairSource(Protocol):
    """Random access to image-text pairs."""

    name: str
    """The source's key in the configuration, for logs and error messages."""

    def __len__(self) -> int:
        """Number of pairs."""

    def __getitem__(self, index: int) -> PairRecord:
        """The pair at `index`, 0 <= index < len(self).

        Raises:
            SampleFault: It cannot be used.
        """

    def records(self, indices: Sequence[int]) -> list[PairRecord | SampleFault]:
        """The pairs at these indices, in their order and read together; for one that cannot be used, its fault."""

    @property
    def reads_ahead(self) -> bool:
        """Whether `prefetch` saves time: reading waits for a store or a network file system."""

    def prefetch(self, indices: Sequence[int]) -> None:
        """Begin to read the pairs at these indices, which will be asked for soon; errors are told by `records`."""

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language, one of `LANGUAGES`."""

    def pairs(self) -> Rows:
        """The indices that are drawn: all of them, but for those that are known to have no caption."""

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """(language, text) of all captions and keywords of every n-th row, in a fixed order, without reading images.

        Raises:
            DataError: One cannot be read after all attempts. Rows that are no pairs are left out.
        """

    def opening_faults(self) -> list[FaultReport]:
        """Samples that were left out when the source was opened; they have no index."""


def single_record(found: Sequence[PairRecord | SampleFault]) -> PairRecord:
    """The record of a list of one.

    Raises:
        SampleFault: The list holds a fault instead.
    """
    (one,) = found
    if isinstance(one, SampleFault):
        raise one
    return one


def records_one_by_one(read: Callable[[int], PairRecord], indices: Iterable[int]) -> list[PairRecord | SampleFault]:
    """`PairSource.records` of a source that reads one pair at a time."""
    found: list[PairRecord | SampleFault] = []
    for index in indices:
        try:
            found.append(read(index))
        except SampleFault as fault:
            found.append(fault)
    return found


@dataclass(frozen=True, slots=True)
class EveryNth:
    """The indices first, first + stride, first + 2 stride, ..."""

    first: int
    stride: int
    length: int

    def __len__(self) -> int:
        return self.length

    def take(self, positions: Ids) -> Ids:
        return self.first + self.stride * positions


def pairs_per_row(config: SourceConfig) -> int:
    """Pairs of one row: one per language of `captions`, one with `caption_fields`."""
    return len(config.captions) or 1


def languages_of(config: SourceConfig) -> list[str]:
    """The languages of `captions` in the order of `LANGUAGES`: pair i of a row is in language i."""
    return [language for language in LANGUAGES if language in config.captions]


def text_fields(config: SourceConfig) -> list[str]:
    """The fields of captions, keywords and language."""
    fields = [*config.captions.values(), *config.caption_fields, *config.keywords.values()]
    return list(dict.fromkeys(fields + ([config.language_field] if config.language_field else [])))


def row_language(config: SourceConfig, row: Mapping[str, Any]) -> str:
    """The language of a row's `caption_fields`.

    Raises:
        SampleFault: It is neither Korean nor English, or cannot be detected.
    """
    if config.language_field is not None:
        return language_code(row.get(config.language_field))
    if config.language != "detect":
        return config.language
    return detect_language(_captions(row, config.caption_fields, [])[0], config.min_hangul_share)


def language_mark(config: SourceConfig, row: Mapping[str, Any]) -> int:
    """The index of the row's language in `LANGUAGES`, or `UNKNOWN`."""
    try:
        with sample_errors():
            return LANGUAGES.index(row_language(config, row))
    except SampleFault:
        return UNKNOWN


def _captions(row: Mapping[str, Any], fields: Sequence[str], repairs: list[str]) -> tuple[str, ...]:
    texts = [text for name in fields for text in clean_texts(row.get(name), name, repairs)]
    if not texts:
        raise SampleFault("caption_missing", "the caption is empty")
    return tuple(texts)


def _pair_captions(config: SourceConfig, row: Mapping[str, Any], language: str, repairs: list[str]) -> tuple[str, ...]:
    """The captions of a row in a language.

    Raises:
        SampleFault: There is none (`caption_missing`), or only one in the other language (`other_language_only`).
    """
    try:
        return _captions(row, [config.captions[language]] if config.captions else config.caption_fields, repairs)
    except SampleFault as fault:
        others = [field for other, field in config.captions.items() if other != language]
        if fault.kind == "caption_missing" and others:
            has_other = False
            with contextlib.suppress(SampleFault):
                has_other = bool(_captions(row, others, []))
            if has_other:
                raise SampleFault("other_language_only", f"no caption in '{language}'") from fault
        raise


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
    """The record of pair `pair` of a row; of a source without captions, its image with empty language and caption.

    Raises:
        SampleFault: The row has no image, no caption or no known language, or a field without text; carries the key.
    """
    repairs: list[str] = []
    with sample_errors(key):
        if not image:
            raise SampleFault("image_missing", "the image has no bytes")
        if not config.has_captions:
            return PairRecord(key=key, image=image, file_name=file_name, language="", caption="")
        language = languages_of(config)[pair] if config.captions else row_language(config, row)
        captions = _pair_captions(config, row, language, repairs)
        field = config.keywords.get(language)
        keywords = split_keywords(row.get(field), config.keyword_separator, field, repairs) if field else ()
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
    """(language, text) of a row's captions and keywords, as in its records."""
    for pair in range(pairs_per_row(config) if config.has_captions else 0):
        try:
            record = make_record(config, key="", image=b"-", row=row, pair=pair)
        except SampleFault:
            continue
        for text in (record.caption, *record.more_captions, *record.keywords):
            yield record.language, text
