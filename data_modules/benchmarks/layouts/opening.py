"""Placeholder until the layouts are merged."""

from collections.abc import Sequence
from typing import Any

from data_modules.benchmarks.config import TableConfig, TextTableConfig
from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.sources.fingerprint import FileFingerprint, table_fingerprint
from data_modules.sources.tables import as_text, open_table, read_rows


class ParquetSamples:
    def __init__(self, config: TableConfig, columns: Sequence[str]) -> None:
        self.table = open_table(config.files, config.image, [])
        self.config = config
        self.identity = repr((config.files, config.image))
        self.columns = self.table.column_names

    def __len__(self) -> int:
        return len(self.table)

    def cells(self, column: str, rows: RowIds) -> list[Any]:
        if column not in self.columns:
            raise DataError(
                f"{self.config.files[0]} has no column '{column}'; its columns are {', '.join(self.columns)}"
            )
        return [row.get(column) for row in read_rows(self.table, [column], rows)]

    def keys(self, rows: RowIds) -> list[str]:
        if self.config.key in self.columns:
            return [as_text(one) for one in self.cells(self.config.key, rows)]
        return [str(row) for row in rows]

    def image(self, row: int) -> bytes:
        cell = self.table[row][self.config.image]
        return cell["bytes"] if isinstance(cell, dict) else cell


def open_samples(
    config: TableConfig,
    context: str,
    *,
    data_folder: str | None = None,
    needs_images: bool = True,
    columns: Sequence[str] = (),
) -> SampleTable:
    return ParquetSamples(config, columns)


def joined_captions(config: TextTableConfig, keys: list[str], context: str, data_folder: str | None) -> list[list[str]]:
    raise NotImplementedError


def sample_fingerprints(config: TableConfig, data_folder: str | None) -> tuple[FileFingerprint, ...]:
    return table_fingerprint(config.files)


def missing_files(config: TableConfig, data_folder: str | None) -> list[str]:
    return []
