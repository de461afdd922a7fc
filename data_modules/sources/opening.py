"""Opens a source in whatever format its configuration names."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from data_modules.errors import DataError
from data_modules.paths import resolve_files, resolve_path
from data_modules.sources.config import SourceConfig, SourceFormat, source_format
from data_modules.sources.protocol import PairSource
from data_modules.sources.streaming import StreamSource
from data_modules.sources.table_source import TableSource, columns_of, require_columns
from data_modules.sources.tables import keep_encoded, open_paths_table, open_table, stores_paths
from data_modules.sources.tar_source import TarSource

DEFAULT_STREAM_WINDOW = 4096
"""Rows of a stream that are kept where it is read without an order: to count, pack or train a tokenizer."""


def open_source(name: str, config: SourceConfig, shuffle_window: int = 0) -> PairSource:
    """The configured source, opened.

    Args:
        name: Its key in the configuration.
        config: Its settings.
        shuffle_window: Over how many samples the order mixes; 0: all. A stream needs one.

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
    folder_of = functools.partial(_folder, [file.parent for file in files], ends)
    try:
        table = datasets.concatenate_datasets(tables)
    except (ValueError, TypeError) as error:
        raise DataError(f"source '{name}': the columns of its tables differ ({error})") from error
    return TableSource(name, config, table, folder_of)


def _folder(folders: Sequence[Path], ends: Any, row: int) -> Path:
    return folders[int(np.searchsorted(ends, row, side="right"))]


def _open_dataset(name: str, config: SourceConfig, shuffle_window: int) -> PairSource:
    if len(config.files) != 1:
        raise DataError(f"source '{name}': a dataset is one folder or name, not {len(config.files)}; make them sources")
    place = resolve_path(config.files[0])
    is_saved = (place / "state.json").is_file() or (place / "dataset_dict.json").is_file()
    _check_saved(name, config, is_saved)
    try:
        if config.stream_length is not None:
            return _open_stream(name, config, place, config.stream_length, shuffle_window)
        if is_saved:
            loaded = datasets.load_from_disk(str(place))
        else:
            source = str(place) if place.exists() else config.files[0]
            loaded = datasets.load_dataset(source, config.subset, split=config.split)
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
    # Before the cast, which adds to it. `datasets` makes one of a local folder's path and times, which says nothing.
    version = "" if place.exists() else str(loaded._fingerprint)
    return TableSource(name, config, keep_encoded(loaded, config.image), version=version)


def _check_saved(name: str, config: SourceConfig, is_saved: bool) -> None:
    for setting, value in (("subset", config.subset), ("stream_length", config.stream_length)):
        if is_saved and value is not None:
            raise DataError(
                f"source '{name}': '{config.files[0]}' was saved by save_to_disk, which knows no {setting}; remove it"
            )


def _open_stream(name: str, config: SourceConfig, place: Path, length: int, shuffle_window: int) -> StreamSource:
    opener = _stream_opener(config, place)
    columns = opener().column_names
    if columns is not None:  # else the first row tells
        require_columns(name, config, columns)
    return StreamSource(name, config, opener, 2 * (shuffle_window or min(DEFAULT_STREAM_WINDOW, length)))


def _stream_opener(config: SourceConfig, place: Path) -> Callable[[], Any]:
    source = str(place) if place.exists() else config.files[0]

    def open_stream() -> Any:
        stream = datasets.load_dataset(source, config.subset, split=config.split, streaming=True)
        return stream.cast_column(config.image, datasets.Image(decode=False))

    return open_stream
