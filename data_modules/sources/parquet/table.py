"""Parquet files as one table, read where they lie."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_modules.sources.blobs import BlobReader
from data_modules.sources.parquet.files import ParquetFiles
from data_modules.sources.parquet.row_groups import RowGroups
from data_modules.sources.parquet.runs import GroupRuns


class ParquetTable:
    """Random access to the rows of parquet files, by the interface of `datasets.Dataset`.

    Args:
        files: Their footers.
        reader: Reads them.
        index_of: Path of a leaf with long values -> the file of its index, which need not exist; `None`: each process
            keeps it in memory.
        columns: Of the rows; `None`: all.
        runs: Keeps the row groups of files in a store; `None`: each read goes to the files themselves.
    """

    def __init__(
        self,
        files: ParquetFiles,
        reader: BlobReader,
        index_of: Callable[[tuple[str, ...]], Path | None],
        *,
        columns: Sequence[str] | None = None,
        runs: GroupRuns | None = None,
    ) -> None:
        self.files, self.runs = files, runs
        self.column_names = list(files.columns if columns is None else columns)
        self.groups = RowGroups(files, reader, index_of)

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns of the files."""
        return self.files.schemas[0].arrow

    def __len__(self) -> int:
        return self.files.num_rows

    def select_columns(self, columns: Sequence[str]) -> "ParquetTable":
        """The same rows with some of their columns, which are read from the files themselves."""
        found = ParquetTable.__new__(ParquetTable)
        found.__dict__.update(self.__dict__, column_names=list(columns), runs=None)
        return found

    def __getitem__(self, rows: Any) -> dict[str, Any]:
        """Column -> cell of a row, or column -> cells of rows, int64 (N,).

        Raises:
            IndexError: There is no such row.
            SampleFault: A page cannot be read, or is damaged.
            UnicodeDecodeError: A text is not UTF-8.
        """
        numbers = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of a table of {len(self)}")
        place = None if self.runs is None else self.runs.place(self.groups.groups_of(numbers))
        cells: dict[str, Any] = self.groups.cells(numbers, self.column_names, place)
        return cells if np.ndim(rows) else {column: values[0] for column, values in cells.items()}

    def prefetch(self, rows: NDArray[np.int64]) -> None:
        """Begin to read the row groups of rows, int64 (N,), if they are in a store."""
        if self.runs is not None:
            self.runs.prefetch(self.groups.groups_of(rows))

    def blocks(self, column: str) -> Iterator[pa.Array]:
        """The cells of a column in the order of the rows.

        Raises:
            SampleFault: A page cannot be read, or is damaged.
        """
        return self.groups.blocks(column)
