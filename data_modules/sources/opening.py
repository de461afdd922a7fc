"""Opens a source in the format of its configuration."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from data_modules.errors import DataError
from data_modules.paths import resolve_files, resolve_path
from data_modules.sources.config import SourceConfig, SourceFormat, source_format
from data_modules.sources.rows import PairSource
from data_modules.sources.streaming import StreamSource
from data_modules.sources.tables import (
    TableSource,
    columns_of,
    keep_encoded,
    open_paths_table,
    open_table,
    require_columns,
    stores_paths,
)
from data_modules.sources.tar_source import TarSource

DEFAULT_STREAM_WINDOW = 4096
"""Rows kept of a stream that is read without an order: to count, pack or train a tokenizer."""


def open_source(name: str, config: SourceConfig, shuffle_window: int = 0) -> PairSource:
    """The configured source, opened.

    Args:
        name: Its key in the configuration.
        config: Its settings.
        shuffle_window: Number of samples that are shuffled together; 0: the whole epoch. Streams need a window.

    Raises:
        DataError: A file is missing, damaged, or not as configured.
    """
    match source_format(config):
        case SourceFormat.shards:
            return TarSource(name, config)
        case SourceFormat.table:
            return _open_table(name, config)
        case _:
            return _open_dataset(name, config, shuffle_window)


def _open_table(name: str, config: SourceConfig) -> TableSource:
    files = resolve_files(config.files)
    if all(file.suffix == ".parquet" for file in files) and not stores_paths(files[0], config.image):
        return TableSource(name, config, open_table(config.files, config.image, columns_of(config)))
    tables = [open_paths_table(file) for file in files]
    ends = np.cumsum([len(table) for table in tables])
    try:
        table = datasets.concatenate_datasets(tables)
    except (ValueError, TypeError) as error:
        raise DataError(f"source '{name}': the columns of its tables differ ({error})") from error
    return TableSource(name, config, table, functools.partial(_folder, [file.parent for file in files], ends))


def _folder(folders: Sequence[Path], ends: Any, row: int) -> Path:
    return folders[int(np.searchsorted(ends, row, side="right"))]


def _open_dataset(name: str, config: SourceConfig, shuffle_window: int) -> PairSource:
    if len(config.files) != 1:
        raise DataError(f"source '{name}': a dataset is one folder or name, not {len(config.files)}; make them sources")
    place = resolve_path(config.files[0])
    dataset = str(place) if place.exists() else config.files[0]
    is_saved = (place / "state.json").is_file() or (place / "dataset_dict.json").is_file()
    if is_saved:
        _check_saved(name, config)
    try:
        if config.stream_length is not None:
            return _open_stream(name, config, dataset, config.stream_length, shuffle_window)
        if is_saved:
            loaded = datasets.load_from_disk(dataset)
        else:
            loaded = datasets.load_dataset(dataset, config.subset, split=config.split)
    except DataError:
        raise
    except Exception as error:  # of the hub, of builders, of Arrow, ...
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"source '{name}': '{config.files[0]}' cannot be opened as a dataset ({first_line})") from error
    if isinstance(loaded, datasets.DatasetDict):
        if config.split not in loaded:
            raise DataError(f"source '{name}' has no split '{config.split}'; it has {', '.join(loaded)}")
        loaded = loaded[config.split]
    elif is_saved and config.split not in ("train", str(loaded.split)):
        raise DataError(f"source '{name}': '{config.files[0]}' was saved without splits; remove split = {config.split}")
    # Read before the cast, which changes it. That of a local folder depends on its path and times, not its content.
    version = "" if place.exists() else str(loaded._fingerprint)
    return TableSource(name, config, keep_encoded(loaded, config.image), version=version)


def _check_saved(name: str, config: SourceConfig) -> None:
    for setting, value in (("subset", config.subset), ("stream_length", config.stream_length)):
        if value is not None:
            raise DataError(
                f"source '{name}': '{config.files[0]}' was saved by save_to_disk, which has no {setting}; remove it"
            )


def _open_stream(name: str, config: SourceConfig, dataset: str, length: int, shuffle_window: int) -> StreamSource:
    def open_stream() -> Any:
        stream = datasets.load_dataset(dataset, config.subset, split=config.split, streaming=True)
        return stream.cast_column(config.image, datasets.Image(decode=False))

    columns = open_stream().column_names
    if columns is not None:  # else they are checked with the first row
        require_columns(name, config, columns)
    return StreamSource(name, config, open_stream, 2 * (shuffle_window or min(DEFAULT_STREAM_WINDOW, length)))
