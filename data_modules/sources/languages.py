"""Languages of pairs: which pairs of a source are in a language, and rules that give each image one language.

If the language is known only from the rows, each language has one bit per row and one count per block of 512 rows:
0.14 bytes per row and language, 0.34 GB for 1.2 billion rows and both. The n-th row of a language is found by a binary
search over the counts and by counting bits inside one block (rank and select; Jacobson 1989, "Space-efficient static
trees and graphs"), without reading rows.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import ABSENT, FaultReport, SampleFault
from data_modules.languages import LANGUAGES
from data_modules.records import PairRecord
from data_modules.sources.config import LanguageRule, SourceConfig, needs_language_marks
from data_modules.sources.rows import EveryNth, Ids, PairSource, Rows, languages_of, single_record

Marks = Callable[[int, int], NDArray[Any]]
"""Rows [start, stop) -> index of each one's language in `LANGUAGES`, or any other number."""

_BLOCK_BITS = 512
_BLOCK_BYTES = _BLOCK_BITS // 8
_READ_ROWS = 128 * _BLOCK_BITS
"""Rows that one call of `Marks` reads."""


class Marked:
    """The indices with a set bit.

    Args:
        bits: uint8 (blocks * 64,), index i is bit i % 8, the lowest first, of byte i // 8.
    """

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._bits = bits.reshape(-1, _BLOCK_BYTES)
        self._before = np.zeros(len(self._bits) + 1, dtype=np.int64)
        """Number of set bits before each block, and of all."""
        for start in range(0, len(self._bits), _READ_ROWS):
            some = self._bits[start : start + _READ_ROWS]
            self._before[start + 1 : start + 1 + len(some)] = np.bitwise_count(some).sum(axis=1)
        np.cumsum(self._before, out=self._before)

    @classmethod
    def of(cls, flags: NDArray[np.bool_]) -> "Marked":
        """The indices whose flag is set, bool (N,)."""
        bits = np.packbits(flags, bitorder="little")
        return cls(np.append(bits, np.zeros(-len(bits) % _BLOCK_BYTES, dtype=np.uint8)))

    def __len__(self) -> int:
        return int(self._before[-1])

    @property
    def nbytes(self) -> int:
        return self._bits.nbytes + self._before.nbytes

    def take(self, positions: Ids) -> Ids:
        """The indices at these positions: O(log rows) each.

        Raises:
            IndexError: A position is too large.
        """
        blocks = np.searchsorted(self._before, positions, side="right") - 1
        left = (positions - self._before[blocks])[:, None]
        ends = np.cumsum(np.bitwise_count(self._bits[blocks]), axis=1, dtype=np.int64)
        places = (ends <= left).sum(axis=1)
        found = self._bits[blocks, places]
        left -= ends[np.arange(len(positions)), places][:, None] - np.bitwise_count(found)[:, None]
        set_bits = np.cumsum(np.unpackbits(found[:, None], axis=1, bitorder="little"), axis=1)
        indices: Ids = blocks * _BLOCK_BITS + places * 8 + (set_bits <= left).sum(axis=1)
        return indices


def marked_rows(marks: Marks, length: int) -> dict[str, Marked]:
    """Language -> indices of its rows; reads every mark once.

    Args:
        marks: Gives the languages of rows [start, stop).
        length: Number of rows.
    """
    num_bytes = -(-length // _BLOCK_BITS) * _BLOCK_BYTES
    bits = {language: np.zeros(num_bytes, dtype=np.uint8) for language in LANGUAGES}
    for start in range(0, length, _READ_ROWS):
        found = marks(start, min(start + _READ_ROWS, length))
        for mark, language in enumerate(LANGUAGES):
            packed = np.packbits(found == mark, bitorder="little")
            bits[language][start // 8 : start // 8 + len(packed)] = packed
    return {language: Marked(one) for language, one in bits.items()}


class LanguageRows:
    """The pair indices of a source by language, computed once per process and not pickled.

    Args:
        config: The source's.
        length: Number of pairs of the source.
        marks: Gives the languages of rows [start, stop); called only if the settings do not give them.
    """

    def __init__(self, config: SourceConfig, length: int, marks: Marks) -> None:
        self._config, self._length, self._marks = config, length, marks
        self._found: dict[str, Marked] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_found": None}

    def of(self, language: str) -> Rows:
        """The indices in a language, one of `LANGUAGES`."""
        config, length = self._config, self._length
        if config.captions:
            languages = languages_of(config)
            if language not in languages:
                return EveryNth(0, 1, 0)
            return EveryNth(languages.index(language), len(languages), length // len(languages))
        if not needs_language_marks(config):
            return EveryNth(0, 1, length if config.language == language else 0)
        if self._found is None:
            self._found = marked_rows(self._marks, length)
        return self._found[language]


@dataclass(frozen=True, slots=True)
class _WholeRows:
    """All indices of the rows that some indices, at most one of a row, belong to; `count` indices make a row."""

    chosen: Rows
    count: int

    def __len__(self) -> int:
        return len(self.chosen) * self.count

    def take(self, positions: Ids) -> Ids:
        rows = self.chosen.take(positions // self.count) // self.count
        return rows * self.count + positions % self.count


def _whole_rows(chosen: Rows, count: int, length: int) -> Rows:
    whole = _WholeRows(chosen, count)
    return EveryNth(0, 1, length) if len(whole) == length else whole


_ROWS_TRIED = 32
"""Rows that are read to find a source's columns."""


def hashed_language(value: str, overlap: float = 0.0) -> str | None:
    """Ko or en by the value's SHA-256, each for half of all values; `None`, both, for the fraction `overlap` of them.

    Byte 0 gives the language and bytes 1 to 4 decide about both, so that a larger overlap adds values to both
    languages and changes no other's language.
    """
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).digest()
    if int.from_bytes(digest[1:5], "little") < overlap * 2**32:
        return None
    return LANGUAGES[digest[0] % len(LANGUAGES)]


class OneLanguageSource:
    """A source with the same number and order of pairs, each in the language that the rule gives it.

    A pair in the other language is replaced by the pair of the same image in the right one, so runs with different
    rules see the same images in the same order.

    Args:
        source: The source.
        config: Its settings.
        rule: Gives the languages.
        overlap: Fraction of the hashed values that keep both languages.

    Raises:
        DataError: The rule may give a pair a language in which its image has no caption, or its column is missing.
    """

    def __init__(self, source: PairSource, config: SourceConfig, rule: LanguageRule, overlap: float = 0.0) -> None:
        self.name = source.name
        self._source = source
        self._rule, self._overlap = rule, overlap
        self._languages = languages_of(config)
        if rule.column is not None:
            if len(self._languages) < len(LANGUAGES):
                raise DataError(
                    f"data.languages = {rule.name}: source '{self.name}' has captions in one language only, and the "
                    "rule needs both; add the other one, or use by_image"
                )
            self._require_column(rule.column)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> PairRecord:
        return single_record(self.records([index]))

    def records(self, indices: Sequence[int]) -> list[PairRecord | SampleFault]:
        found = [self._readable(*one) for one in zip(indices, self._source.records(indices), strict=True)]
        switched = {place: other for place, other in enumerate(map(self._other_pair, indices, found)) if other >= 0}
        if switched:
            for place, record in zip(switched, self._source.records([*switched.values()]), strict=True):
                # An image with captions in one language only is paired with those, whatever its hash.
                if self._rule.name in LANGUAGES or not (isinstance(record, SampleFault) and record.kind in ABSENT):
                    found[place] = record
        return found

    @property
    def reads_ahead(self) -> bool:
        return self._source.reads_ahead

    def prefetch(self, indices: Sequence[int]) -> None:
        self._source.prefetch(indices)

    def _readable(self, index: int, found: PairRecord | SampleFault) -> PairRecord | SampleFault:
        """What was found at an index; for a fault, the first usable pair of the image, which gives its language too."""
        if isinstance(found, SampleFault):
            for other in self._pairs_of_image(index):
                if other != index:
                    with contextlib.suppress(SampleFault):
                        return self._source[other]
        return found

    def _other_pair(self, index: int, found: PairRecord | SampleFault) -> int:
        """The index of the pair in the image's language; -1 if the record found is that one, or there is none."""
        if isinstance(found, SampleFault):
            return -1
        language = self._language_of(found)
        if found.language == language or language not in self._languages:
            return -1
        return self._pairs_of_image(index)[self._languages.index(language)]

    def _pairs_of_image(self, index: int) -> range:
        count = max(1, len(self._languages))
        return range(index - index % count, index - index % count + count)

    def _language_of(self, record: PairRecord) -> str:
        if self._rule.name in LANGUAGES:
            return self._rule.name
        column = self._rule.column
        value = record.key if column is None else record.attributes[column]
        return hashed_language(value, self._overlap) or record.language

    def _require_column(self, column: str) -> None:
        """Checks the first usable row; all rows have the same columns."""
        for index in range(min(len(self), _ROWS_TRIED)):
            with contextlib.suppress(SampleFault):
                record = self._source[index]
                if column not in record.attributes:
                    raise DataError(
                        f"data.languages = {self._rule.name}: source '{self.name}' has no column '{column}'; its "
                        f"records have {', '.join(sorted(record.attributes))}; add it, or use by_image"
                    )
                return

    def pairs(self) -> Rows:
        """The indices that are drawn: of rows that have a caption in the rule's language."""
        if self._rule.name not in LANGUAGES:
            return self._source.pairs()
        return _whole_rows(self._source.rows_of(self._rule.name), max(1, len(self._languages)), len(self))

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language.

        Raises:
            DataError: The rule gives a pair's language only when the pair is read.
        """
        if self._rule.name not in LANGUAGES:
            raise DataError(
                f"data.languages = {self._rule.name} decides the language pair by pair, so that data.order cannot "
                "weigh or separate languages; leave temperature, language_weights and single_language_batches out"
            )
        return self.pairs() if language == self._rule.name else EveryNth(0, 1, 0)

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """(language, text) of both languages: a rule changes the tokenizer only by leaving out sources."""
        return self._source.captions(every)

    def opening_faults(self) -> list[FaultReport]:
        return self._source.opening_faults()


def apply_language_rule(
    sources: Sequence[PairSource], configs: Mapping[str, SourceConfig], rule: LanguageRule, overlap: float = 0.0
) -> list[PairSource]:
    """The sources under a rule; for a single language, without those that have no caption in it.

    `overlap` is the fraction of hashed values that keep both languages.

    Raises:
        DataError: The rule does not fit a source, or no source remains.
    """
    if rule is LanguageRule.both:
        return list(sources)
    if rule.name in LANGUAGES:
        sources = [source for source in sources if _has_language(configs[source.name], source.name, rule.name)]
        if not sources:
            raise DataError(f"data.languages = {rule.name}: no source has captions in '{rule.name}'; name their column")
    return [OneLanguageSource(source, configs[source.name], rule, overlap) for source in sources]


def _has_language(config: SourceConfig, name: str, language: str) -> bool:
    """Whether a source has captions in a language.

    Raises:
        DataError: It is known only from the rows.
    """
    if needs_language_marks(config):
        raise DataError(
            f"data.languages = {language}: the language of source '{name}' is known only from its rows; give it "
            "`captions` by language or a fixed `language`"
        )
    return language in config.captions or (bool(config.caption_fields) and config.language == language)
