"""Pairs from tables and Hugging Face datasets, at random."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.rows import (
    Rows,
    language_mark,
    make_record,
    needs_language_marks,
    pairs_per_row,
    row_texts,
    rows_of_language,
)
from data_modules.sources.tables import as_text, matching_rows

_MARK_ROWS = 10_000
"""Rows whose language is found out at a time."""


def columns_of(config: SourceConfig) -> list[str]:
    """The columns that a table must have."""
    columns = [config.image, *config.captions.values(), *config.caption_fields, *config.keywords.values()]
    columns += [*config.where, *([config.language_field] if config.language_field else [])]
    # Without a key of their own, rows go by their number.
    columns += [config.key] if config.key != SourceConfig.__dataclass_fields__["key"].default else []
    return list(dict.fromkeys(columns))


class TableSource:
    """Random access to the pairs of a table: one pair per row and language, or per row.

    With L languages in `captions`, pair `index` is row `index // L` in the language `index % L`.

    Args:
        name: The source's key in the configuration.
        config: Its settings.
        table: The rows, images left encoded.
        folder_of: The folder to which image paths in a row are relative; none: to the working directory.
        version: The fingerprint of a dataset that has no files of its own here, empty otherwise.
    """

    def __init__(
        self,
        name: str,
        config: SourceConfig,
        table: datasets.Dataset,
        folder_of: Callable[[int], Path] | None = None,
        version: str = "",
    ) -> None:
        self.name, self.config, self.table, self.version = name, config, table, version
        _require_columns(name, config, table.column_names)
        self.rows = matching_rows(table, config.where)
        if not len(self.rows):
            raise DataError(f"source '{name}' has no row with {config.where}; loosen its `where`")
        self._folder_of = folder_of
        self._pairs = pairs_per_row(config)
        text_columns = {config.image, *config.captions.values(), *config.caption_fields, *config.keywords.values()}
        self._attributes = [name for name in table.column_names if name not in text_columns]
        self._marks: NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.rows) * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        position, pair = divmod(index, self._pairs)
        number = int(self.rows[position])
        row = self.table[number]
        key = str(row[self.config.key]) if row.get(self.config.key) is not None else str(number)
        folder = self._folder_of(number) if self._folder_of else Path()
        attributes = ((name, as_text(row[name])) for name in self._attributes)
        return row_record(self.config, row, key=key, pair=pair, folder=folder, attributes=attributes)

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language; reads every caption where only they tell it."""
        if needs_language_marks(self.config) and self._marks is None:
            self._marks = self._find_marks()
        return rows_of_language(self.config, language, len(self), self._marks_between)

    def _marks_between(self, start: int, stop: int) -> NDArray[Any]:
        assert self._marks is not None
        return self._marks[start:stop]

    def _find_marks(self) -> NDArray[np.int8]:
        wanted = self.config.caption_fields
        columns = [*wanted, *([self.config.language_field] if self.config.language_field else [])]
        texts = self.table.select_columns(list(dict.fromkeys(columns)))
        marks = np.empty(len(self.rows), dtype=np.int8)
        for start in range(0, len(self.rows), _MARK_ROWS):
            cells = texts[self.rows[start : start + _MARK_ROWS]]
            rows = (dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True))
            marks[start : start + _MARK_ROWS] = [language_mark(self.config, row) for row in rows]
        return marks

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """Every (language, text) of every n-th row, names and keywords alike, in row order, images unread."""
        fields = [*self.config.captions.values(), *self.config.caption_fields, *self.config.keywords.values()]
        fields += [self.config.language_field] if self.config.language_field else []
        for row in self.table.select_columns(list(dict.fromkeys(fields))).select(self.rows[::every]):
            yield from row_texts(self.config, row)

    def opening_faults(self) -> list[FaultReport]:
        """None: rows are looked at when they are read."""
        return []


def _require_columns(name: str, config: SourceConfig, present: list[str]) -> None:
    for column in columns_of(config):
        if column not in present:
            raise DataError(
                f"source '{name}' has no column '{column}'; its columns are {', '.join(sorted(map(str, present)))}"
            )


def row_record(
    config: SourceConfig,
    row: Mapping[str, Any],
    *,
    key: str,
    pair: int,
    folder: Path,
    attributes: Any = (),
) -> PairRecord:
    """The record of a row whose image is bytes, a struct with `bytes` or `path`, or a path.

    Raises:
        SampleFault: The row has no usable image, caption or language; carries the key.
    """
    try:
        image, file_name = _image_bytes(row.get(config.image), folder)
    except SampleFault as fault:
        raise SampleFault(fault.kind, fault.detail, key) from fault
    return make_record(config, key=key, image=image, row=row, pair=pair, file_name=file_name, attributes=attributes)


def _image_bytes(cell: object, folder: Path) -> tuple[bytes, str]:
    if isinstance(cell, Mapping):
        if cell.get("bytes"):
            return bytes(cell["bytes"]), str(cell.get("path") or "")
        cell = cell.get("path")
    if isinstance(cell, bytes):
        return cell, ""
    if not isinstance(cell, str) or not cell.strip():
        raise SampleFault("image_missing", "the row has no image")
    path = PurePath(cell)
    if path.is_absolute() or ".." in path.parts:
        raise SampleFault("unsafe_name", f"{cell!r} is absolute or climbs out of the table's folder")
    try:
        return (folder / path).read_bytes(), path.name
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise SampleFault("image_missing", f"{folder / path}: {error}") from error
    except OSError as error:
        raise SampleFault("read_failed", f"{folder / path}: {error}") from error
