"""Opens the parquet files of a source where they lie, without a copy of them."""

import functools
import hashlib
import logging
import multiprocessing
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.paths import PACKAGE_PREFIX, is_url, resolve_shards
from data_modules.sources.blobs import BlobReader
from data_modules.sources.config import LanguageRule, SourceConfig
from data_modules.sources.parquet.files import ParquetFiles, open_files
from data_modules.sources.parquet.row_groups import LONG_BYTES, RowGroups
from data_modules.sources.parquet.runs import GroupRuns
from data_modules.sources.parquet.table import ParquetTable
from data_modules.sources.rows import pairs_per_row
from data_modules.sources.run_cache import RunCache
from data_modules.sources.tables import RESTORE, check_columns, check_manifest, columns_of
from data_modules.sources.tar_index import Progress, index_folder
from data_modules.sources.tar_runs import CACHED_WINDOWS, Window, check_room, default_cache_folder

_BYTES_WITHOUT_WINDOW = 1 << 30
"""Row groups that a machine keeps of a source in a store that is not shuffled by windows."""
_SLACK_BYTES = 64 << 20
_log = logging.getLogger(__name__)


def open_parquet(
    config: SourceConfig, paths: Sequence[str], window: Window
) -> tuple[ParquetTable, Callable[[int], Path] | None]:
    """The rows of a source's files, with the columns that its settings name or a language rule may need.

    Also gives the folder of each row's file, if images are paths.

    Args:
        config: The source's settings.
        paths: Its files, paths or URLs.
        window: Its order.

    Raises:
        DataError: A file is missing or damaged, a column is missing, or the columns of files differ, or the disk
            has no room for the row groups that are kept of files in a store.
    """
    for path in paths:
        if not is_url(path):
            check_manifest(Path(path))
    rules = [rule.column for rule in LanguageRule if rule.column is not None]
    columns = list(dict.fromkeys([*columns_of(config), config.key, *rules]))
    reader = BlobReader(config.read_timeout_seconds, config.reads_in_flight)
    files = open_files(paths, columns, reader, long_bytes=LONG_BYTES, remedy=RESTORE)
    check_columns(paths[0], files.columns, columns_of(config))
    columns = [column for column in files.columns if column in columns]
    runs = _runs(config, files, columns, window) if any(map(is_url, paths)) else None
    digest = _digest(files)
    folder = index_folder(config, paths[0])

    def index_of(leaf: tuple[str, ...]) -> Path | None:
        if all(file.startswith(PACKAGE_PREFIX) for file in config.files):
            return None  # small, and nothing is written beside installed files
        return folder / f"kelip-{digest}-{zlib.crc32(repr(leaf).encode()):08x}.places"

    table = ParquetTable(files, reader, index_of, columns=columns, runs=runs)
    kind = files.schemas[0].arrow.field(config.image).type
    are_paths = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return table, _folders(files) if are_paths else None


def _digest(files: ParquetFiles) -> str:
    """Changes with the content of the files, and with their order."""
    states = repr([*zip(files.paths, files.states, strict=True)])
    return hashlib.sha256(states.encode()).hexdigest()[:16]


def _runs(config: SourceConfig, files: ParquetFiles, columns: Sequence[str], window: Window) -> GroupRuns:
    """The row groups of files in a store.

    Raises:
        DataError: The disk has no room for them.
    """
    folder = Path(config.cache_folder).expanduser() if config.cache_folder else default_cache_folder()
    folder /= f"parquet-{_digest(files)}"
    needed = cache_bytes(config, files, window)
    if window.samples:
        check_room(folder, needed, window)
    elif files.num_rows > len(files.first_rows):
        _log.warning(
            "parquet files in a store (%s, ...) without order.shuffle_window: a whole row group is read for nearly "
            "every sample in random order; set shuffle_window, and run_length to the rows of a row group (%s)",
            files.paths[0],
            f"{files.num_rows // max(1, len(files.first_rows) - 1):,}",
        )
    cache = RunCache(folder, needed, timeout=config.read_timeout_seconds, in_flight=config.reads_in_flight)
    return GroupRuns(files, columns, cache)


def cache_bytes(config: SourceConfig, files: ParquetFiles, window: Window) -> int:
    """Bytes of the row groups that a machine keeps of files in a store."""
    whole = sum(int(one.sizes.sum()) for one in files.chunks.values())
    num_groups = max(1, len(files.first_rows) - 1)
    if not window.samples:
        return min(whole, _BYTES_WITHOUT_WINDOW) + _SLACK_BYTES
    pairs = pairs_per_row(config)
    num_runs = -(-window.samples // window.run_length)
    groups_per_run = 1 + window.run_length / pairs * num_groups / max(1, files.num_rows)
    return min(whole, int(CACHED_WINDOWS * num_runs * groups_per_run * whole / num_groups)) + _SLACK_BYTES


def index_parquet(
    config: SourceConfig, *, num_workers: int = 1, progress: Progress | None = None
) -> tuple[int, list[Path]]:
    """Complete the index of a source's images, as reading them does bit by bit.

    Gives the number of rows, and the files of the index: none, where no image can be read without its page.

    Args:
        config: The source's settings.
        num_workers: Processes.
        progress: Told of every row group.

    Raises:
        DataError: A file is missing or damaged, or the index cannot be written.
    """
    table, _ = open_parquet(config, resolve_shards(config.files), Window(samples=0, run_length=1))
    indices = [index.file for index in table.groups.indices.values() if index.file is not None]
    num_groups = len(table.files.first_rows) - 1 if indices else 0
    tell = progress or (lambda *_: None)
    if num_workers == 1:
        for group in range(num_groups):
            _index_group(table.groups, group)
            tell(group + 1, num_groups)
    elif num_groups:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(table.groups,)) as pool:
            for done, _ in enumerate(pool.map(_index_own_group, range(num_groups), chunksize=4), 1):
                tell(done, num_groups)
    if absent := [file for file in indices if num_groups and not os.access(file, os.W_OK)]:
        raise DataError(f"the index {absent[0]} cannot be written: set index_folder to a folder that can")
    return len(table), indices


_own: list[RowGroups] = []
"""Of a process that indexes."""


def _begin(groups: RowGroups) -> None:
    _own[:] = [groups]


def _index_own_group(group: int) -> None:
    _index_group(_own[0], group)


def _index_group(groups: RowGroups, group: int) -> None:
    try:
        groups.index([group])
    except SampleFault as fault:
        raise DataError(f"{fault.detail}; {RESTORE}") from fault


def _folders(files: ParquetFiles) -> Callable[[int], Path]:
    ends = files.first_rows[files.first_groups[1:]]
    return functools.partial(_folder, [Path(path).parent for path in files.paths], ends)


def _folder(folders: list[Path], ends: NDArray[np.int64], row: int) -> Path:
    return folders[int(np.searchsorted(ends, row, side="right"))]
