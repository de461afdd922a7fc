"""Hugging Face datasets that are read sequentially.

The order remains a pure function of (seed, step), since it moves each sample by at most one shuffle window. The costs:
every worker reads the whole stream and keeps its own samples, and a resumed run reads the stream again up to its
position.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault
from data_modules.paths import resolve_path
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig, needs_language_marks
from data_modules.sources.languages import LanguageRows
from data_modules.sources.rows import EveryNth, Rows, pairs_per_row, records_one_by_one, row_texts
from data_modules.sources.tables import require_columns, row_record, satisfies

_log = logging.getLogger(__name__)

Row = Mapping[str, Any]


class StreamSource:
    """Pairs of a stream by index; fast only if indices ascend, except within a window.

    Args:
        name: The source's key in the configuration.
        config: Its settings; `stream_length` is the number of rows of one pass that satisfy `where`.
        open_stream: Starts a pass; every pass gives the same rows in the same order.
        window: Number of past rows that are kept.
    """

    def __init__(self, name: str, config: SourceConfig, open_stream: Callable[[], Iterable[Row]], window: int) -> None:
        assert config.stream_length is not None
        self.name, self.config = name, config
        self._open_stream, self._window, self._length = open_stream, window, config.stream_length
        self._pairs = pairs_per_row(config)
        self._where = {column: frozenset(values) for column, values in config.where.items()}
        self._stream: Iterator[Row] = iter(())
        self._kept: dict[int, Row] = {}
        self._next = -1
        _log.info(
            "source '%s' is streamed: samples move by at most %d rows, every worker reads the whole stream, and a "
            "resumed run reads it again up to its position",
            name,
            window,
        )

    def __len__(self) -> int:
        return self._length * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        number, pair = divmod(index, self._pairs)
        folder = resolve_path(self.config.image_root or "")
        return row_record(self.config, self._row(number), number=number, pair=pair, folder=folder)

    def records(self, indices: Sequence[int]) -> list[PairRecord | SampleFault]:
        return records_one_by_one(self.__getitem__, indices)

    @property
    def reads_ahead(self) -> bool:
        """False: a stream is read in its own order."""
        return False

    def prefetch(self, indices: Sequence[int]) -> None:
        """Nothing."""

    def _row(self, number: int) -> Row:
        if self._next < 0 or (number < self._next and number not in self._kept):
            self._stream, self._kept, self._next = self._rows(), {}, 0
        while self._next <= number:
            try:
                self._kept[self._next] = next(self._stream)
            except StopIteration:
                found = f"{self._next} rows{' that satisfy its `where`' if self._where else ''}"
                raise DataError(
                    f"source '{self.name}' ended after {found}; stream_length = {self._length} must not be larger"
                ) from None
            except DataError:
                raise
            except Exception as error:  # the network, a damaged file, ...
                self._next = -1
                raise SampleFault("read_failed", f"row {number}: {error}", str(number)) from error
            self._kept.pop(self._next - self._window, None)
            self._next += 1
        return self._kept[number]

    def _rows(self) -> Iterator[Row]:
        """The rows of one pass that satisfy `where`.

        Raises:
            DataError: The first row lacks a column that the settings name.
        """
        for number, row in enumerate(self._open_stream()):
            if not number:
                require_columns(self.name, self.config, list(row))
            if satisfies(row, self._where):
                yield row

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language.

        Raises:
            DataError: The language is known only from the rows, which cannot be read in advance.
        """
        if needs_language_marks(self.config):
            raise DataError(
                f"source '{self.name}' is streamed, so its languages are not known in advance; give it language: ko or "
                "en, or leave out the settings that weigh or separate languages"
            )
        return LanguageRows(self.config, len(self), self._marks).of(language)

    def _marks(self, start: int, stop: int) -> NDArray[Any]:
        raise AssertionError("the settings give the language")

    def pairs(self) -> Rows:
        """All indices: which captions are empty is known only when they are read."""
        return EveryNth(0, 1, len(self))

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """(language, text) of the first n-th part of a pass: every n-th row would need all of them read."""
        for row in itertools.islice(self._rows(), -(-self._length // every)):
            yield from row_texts(self.config, row)

    def opening_faults(self) -> list[FaultReport]:
        """Empty: rows are checked when they are read."""
        return []
