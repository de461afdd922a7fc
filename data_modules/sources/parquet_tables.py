"""Opens the parquet files of a source where they lie, without a copy of them."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_modules.paths import is_url
from data_modules.sources.blobs import BlobReader
from data_modules.sources.config import LanguageRule, SourceConfig
from data_modules.sources.parquet.files import ParquetFiles, open_files
from data_modules.sources.parquet.row_groups import LONG_BYTES
from data_modules.sources.parquet.table import ParquetTable
from data_modules.sources.tables import RESTORE, check_columns, check_manifest, columns_of

ENDING = ".parquet"


def open_parquet(
    config: SourceConfig, paths: Sequence[str]
) -> tuple[ParquetTable, Callable[[int], Path] | None]:
    """The rows of a source's files, with the columns that its settings name or a language rule may need.

    Also gives the folder of each row's file, if images are paths.

    Args:
        config: The source's settings.
        paths: Its files, paths or URLs.

    Raises:
        DataError: A file is missing or damaged, a column is missing, or the columns of files differ.
    """
    for path in paths:
        if not is_url(path):
            check_manifest(Path(path))
    rules = [rule.column for rule in LanguageRule if rule.column is not None]
    columns = list(dict.fromkeys([*columns_of(config), config.key, *rules]))
    reader = BlobReader(config.read_timeout_seconds)
    files = open_files(paths, columns, reader, long_bytes=LONG_BYTES, remedy=RESTORE)
    check_columns(paths[0], files.columns, columns_of(config))
    table = ParquetTable(files, reader, [column for column in files.columns if column in columns])
    kind = files.schemas[0].arrow.field(config.image).type
    are_paths = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return table, _folders(files) if are_paths else None


def _folders(files: ParquetFiles) -> Callable[[int], Path]:
    ends = files.first_rows[files.first_groups[1:]]
    return functools.partial(_folder, [Path(path).parent for path in files.paths], ends)


def _folder(folders: list[Path], ends: NDArray[np.int64], row: int) -> Path:
    return folders[int(np.searchsorted(ends, row, side="right"))]
