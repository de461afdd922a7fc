"""Memory and disk of what a rank knows about the rows of its sources: measured of open ones, and for any number."""

from collections.abc import Iterable
from dataclasses import dataclass

from data_modules.sources.parquet.table import ParquetTable
from data_modules.sources.parquet.value_index import ROW_BYTES as VALUE_BYTES
from data_modules.sources.rows import PairSource
from data_modules.sources.tables import TableSource
from data_modules.sources.tar_index import ROW_BYTES as TAR_BYTES
from data_modules.sources.tar_index import SHARD_BYTES
from data_modules.sources.tar_source import TarSource

PAPER_ROWS = 1_184_000_000
"""Pairs of the paper."""
_PARQUET_LEAVES = 4
"""Columns of a row group that are read: bytes and path of an image, caption, key."""
_LEAF_BYTES, _GROUP_BYTES = 18, 8
"""Of a column and of a row group: start and size, compression, length; number of the first row."""
_MARK_BYTES = 0.28
"""A row's languages in both, where they are known from the rows alone."""
_BLANK_BYTES = 0.125
"""A bit for each of two pairs of a row, where some captions are empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSize:
    """The index of a source."""

    source: str
    kind: str
    """tar, parquet or table (others: memory-mapped by Arrow)."""
    rows: int
    memory: int
    """Bytes in each rank, shared with the loader processes that it forks."""
    disk: int
    """Bytes of files that all ranks read, a row where it is needed."""


def index_sizes(sources: Iterable[PairSource]) -> list[IndexSize]:
    """The indices of open sources; streams have none."""
    return [size for source in sources if (size := _index_size(source)) is not None]


def _index_size(source: PairSource) -> IndexSize | None:
    if isinstance(source, TarSource):
        rows = len(source.index)
        memory, disk = len(source.index.shards) * SHARD_BYTES, rows * TAR_BYTES
        return IndexSize(source=source.name, kind="tar", rows=rows, memory=memory, disk=disk)
    if not isinstance(source, TableSource):
        return None
    rows, kind, disk = len(source.table), "table", 0
    if isinstance(source.table, ParquetTable):
        files = [one.file for one in source.table.groups.indices.values() if one.file is not None]
        kind, disk = "parquet", len(files) * rows * VALUE_BYTES
    return IndexSize(source=source.name, kind=kind, rows=rows, memory=source.nbytes, disk=disk)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexScale:
    """The index of a number of rows."""

    kind: str
    memory: float
    """Bytes in each rank."""
    disk: float
    """Bytes of files."""


def index_scale(rows: int = PAPER_ROWS, group: int = 1000, per_shard: int = 10_000) -> list[IndexScale]:
    """The indices of `rows` rows, by their constants.

    Args:
        rows: Number of rows.
        group: Rows of a row group of parquet.
        per_shard: Samples of a shard.
    """
    leaves = _GROUP_BYTES + _PARQUET_LEAVES * _LEAF_BYTES
    return [
        IndexScale(kind=f"tar shards of {per_shard:,}", memory=rows / per_shard * SHARD_BYTES, disk=rows * TAR_BYTES),
        IndexScale(kind=f"parquet, row groups of {group:,}", memory=rows / group * leaves, disk=rows * VALUE_BYTES),
        IndexScale(kind="tables with empty captions, in addition", memory=2 * rows * _BLANK_BYTES, disk=0),
        IndexScale(kind="languages known per row, in addition", memory=rows * _MARK_BYTES, disk=0),
    ]
