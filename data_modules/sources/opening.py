"""Opens a source in the format of its configuration."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from data_modules.errors import DataError
from data_modules.paths import is_url, resolve_files, resolve_path, resolve_shards
from data_modules.sources.config import PARQUET_ENDING, SourceConfig, SourceFormat, source_format
from data_modules.sources.folder import open_folder
from data_modules.sources.parquet_tables import open_parquet
from data_modules.sources.rows import PairSource
from data_modules.sources.streaming import StreamSource
from data_modules.sources.tables import (
    TableSource,
    check_columns,
    columns_of,
    keep_encoded,
    open_paths_table,
    open_table,
    require_columns,
    stores_paths,
)
from data_modules.sources.tar_runs import Window
from data_modules.sources.tar_source import TarSource

DEFAULT_STREAM_WINDOW = 4096
"""Rows kept of a stream that is read without an order: to count, pack or train a tokenizer."""


def open_source(name: str, config: SourceConfig, shuffle_window: int = 0, run_length: int = 64) -> PairSource:
    """The configured source, opened.

    Args:
        name: Its key in the configuration.
        config: Its settings.
        shuffle_window: Number of samples that are shuffled together; 0: the whole epoch. Streams need a window.
        run_length: Neighbours that are shuffled as one, with a window.

    Raises:
        DataError: A file is missing, damaged, or not as configured.
    """
    match source_format(config):
        case SourceFormat.shards:
            return TarSource(name, config, window=Window(samples=shuffle_window, run_length=run_length))
        case SourceFormat.table:
            return _open_table(name, config, Window(samples=shuffle_window, run_length=run_length))
        case SourceFormat.folder:
            return open_folder(name, config)
        case _:
            return _open_dataset(name, config, shuffle_window)


FolderOf = Callable[[int], Path]
"""Row number -> the folder that image paths are relative to."""


def _open_table(name: str, config: SourceConfig, window: Window) -> TableSource:
    if config.image_root is not None and not resolve_path(config.image_root).is_dir():
        raise DataError(f"source '{name}': image_root = {config.image_root} is no folder; correct the path")
    paths = resolve_shards(config.files)
    if all(path.lower().endswith(PARQUET_ENDING) for path in paths):
        return TableSource(name, config, *open_parquet(config, paths, window))
    if remote := next(filter(is_url, paths), None):
        raise DataError(f"source '{name}': {remote} is read from a store, and of tables only parquet can be")
    table, folder_of = open_table_files(
        f"source '{name}'",
        config.files,
        config.image,
        columns_of(config),
        encoding=config.encoding,
        separator=config.separator,
    )
    return TableSource(name, config, table, folder_of)


def open_table_files(
    owner: str,
    patterns: Sequence[str],
    image: str | None,
    columns: Sequence[str],
    *,
    encoding: str = "utf-8",
    separator: str | None = None,
) -> tuple[datasets.Dataset, FolderOf | None]:
    """The rows of all matching tables, memory-mapped, and their folders if images may be paths.

    Args:
        owner: Subject of error messages.
        patterns: Parquet, CSV, TSV or JSONL files, or glob patterns.
        image: Column of images; `None`: no images are needed.
        columns: Other columns that must be there.
        encoding: Of CSV and TSV files.
        separator: Of CSV files; `None`: detected.

    Raises:
        DataError: A pattern matches nothing, a file is damaged, a column is missing, or the columns of files differ.
    """
    files = resolve_files(patterns)
    if all(file.suffix == ".parquet" for file in files) and not (image is not None and stores_paths(files[0], image)):
        return open_table(patterns, image, columns), None
    tables = [open_paths_table(file, encoding, separator) for file in files]
    for file, table in zip(files, tables, strict=True):
        check_columns(file, table.column_names, [*([image] if image is not None else []), *columns])
    ends = np.cumsum([len(table) for table in tables])
    try:
        rows = datasets.concatenate_datasets(tables)
    except (ValueError, TypeError) as error:
        raise DataError(f"{owner}: the columns of its tables differ ({error})") from error
    return rows, functools.partial(_folder, [file.parent for file in files], ends)


def _folder(folders: Sequence[Path], ends: Any, row: int) -> Path:
    return folders[int(np.searchsorted(ends, row, side="right"))]


def _open_dataset(name: str, config: SourceConfig, shuffle_window: int) -> PairSource:
    if len(config.files) != 1:
        raise DataError(f"source '{name}': a dataset is one folder or name, not {len(config.files)}; make them sources")
    place = resolve_path(config.files[0])
    if is_saved(place):
        _check_saved(name, config)
    if config.stream_length is not None:
        dataset = str(place) if place.exists() else config.files[0]
        with _dataset_errors(f"source '{name}'", config.files[0]):
            return _open_stream(name, config, dataset, config.stream_length, shuffle_window)
    default = str(SourceConfig.__dataclass_fields__["split"].default)
    loaded, version = load_dataset_rows(
        f"source '{name}'", config.files[0], split=config.split, subset=config.subset, default_split=default
    )
    return TableSource(name, config, keep_encoded(loaded, config.image), version=version)


def is_saved(place: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (place / "state.json").is_file() or (place / "dataset_dict.json").is_file()


def load_dataset_rows(
    owner: str, dataset: str, *, split: str, subset: str | None, default_split: str
) -> tuple[datasets.Dataset, str]:
    """The rows of a Hugging Face dataset, memory-mapped, and its fingerprint, which is empty for a local one.

    Args:
        owner: Subject of error messages.
        dataset: Folder, or name on the Hub.
        split: Name of the split.
        subset: Configuration name.
        default_split: A dataset that was saved without splits is also opened with this one.

    Raises:
        DataError: It cannot be opened, or has no such split.
    """
    place = resolve_path(dataset)
    with _dataset_errors(owner, dataset):
        if is_saved(place):
            loaded = datasets.load_from_disk(str(place))
        else:
            loaded = datasets.load_dataset(str(place) if place.exists() else dataset, subset, split=split)
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"{owner} has no split '{split}'; it has {', '.join(loaded)}")
        loaded = loaded[split]
    elif is_saved(place) and split not in (default_split, str(loaded.split)):
        raise DataError(f"{owner}: '{dataset}' was saved without splits; remove split = {split}")
    # That of a local folder depends on its path and times, not its content; casts change it.
    return loaded, "" if place.exists() else str(loaded._fingerprint)


@contextlib.contextmanager
def _dataset_errors(owner: str, dataset: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of the hub, of builders, of Arrow, ...
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{owner}: '{dataset}' cannot be opened as a dataset ({first_line})") from error


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
