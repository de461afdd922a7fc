"""Which pairs of a source are in a language, for any number of pairs.

Where only the rows tell, each language has one bit a row and one count per block of 512 rows: 0.14 bytes a row and
language, 0.34 GB for 1.2 billion rows and both. The n-th row of a language is found by a binary search over the counts
and by counting bits inside one block (rank and select; Jacobson 1989, "Space-efficient static trees and graphs"),
without a look at the rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.records import LANGUAGES
from data_modules.sources.config import SourceConfig
from data_modules.sources.rows import EveryNth, Ids, Rows, languages_of, needs_language_marks

Marks = Callable[[int, int], NDArray[Any]]
"""Rows [start, stop) -> the index of each one's language in `LANGUAGES`, or any other number."""

_BLOCK_BITS = 512
_BLOCK_BYTES = _BLOCK_BITS // 8
_READ_ROWS = 128 * _BLOCK_BITS
"""Rows whose language is asked for at a time."""


class Marked:
    """The indices whose bit is set.

    Args:
        bits: uint8 (blocks * 64,), the bit of index i is bit i % 8, the lowest first, of byte i // 8.
    """

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._bits = bits.reshape(-1, _BLOCK_BYTES)
        self._before = np.zeros(len(self._bits) + 1, dtype=np.int64)
        """Set bits before each block, and of all."""
        for start in range(0, len(self._bits), _READ_ROWS):
            some = self._bits[start : start + _READ_ROWS]
            self._before[start + 1 : start + 1 + len(some)] = np.bitwise_count(some).sum(axis=1)
        np.cumsum(self._before, out=self._before)

    def __len__(self) -> int:
        return int(self._before[-1])

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._bits.nbytes + self._before.nbytes

    def take(self, positions: Ids) -> Ids:
        """The indices at these positions: O(log rows) each.

        Raises:
            IndexError: There are not as many.
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
    """Language -> the indices that are marked as in it; every mark is asked for once.

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
    """The pair indices of a source by language, found out once.

    Loader processes draw no order: a copy that is sent to one leaves behind what was found.

    Args:
        config: The source's.
        length: Number of pairs of the source.
        marks: Gives the languages of rows [start, stop); asked only where the configuration does not fix them.
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
