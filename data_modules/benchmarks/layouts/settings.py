"""Which settings belong to which layout, and what every layout derives from them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.errors import DataError
from data_modules.paths import in_folder, is_url, resolve_path
from data_modules.sources.config import SourceFormat, kind_of_file

LAYOUTS_OF: dict[str, tuple[Layout, ...]] = {
    "image": (Layout.table, Layout.dataset),
    "image_root": (Layout.table, Layout.dataset),
    "allow_absolute_paths": (Layout.table,),
    "encoding": (Layout.table,),
    "separator": (Layout.table,),
    "image_folder": (Layout.karpathy, Layout.xtd10),
    "split": (Layout.dataset, Layout.clip_benchmark),
    "subset": (Layout.dataset,),
}
"""Setting -> the layouts that have it; others refuse it. All layouts have the settings not listed here."""


def sample_layout(config: TableConfig) -> Layout:
    """The configured layout; `auto` is resolved by the first file's ending."""
    if config.layout is not Layout.auto:
        return config.layout
    kinds = {SourceFormat.shards: Layout.shards, SourceFormat.table: Layout.table}
    return kinds.get(kind_of_file(config.files[0]), Layout.dataset)


def default_of(setting: str) -> object:
    """The default of a setting of `TableConfig`."""
    return next(one.default for one in fields(TableConfig) if one.name == setting)


def check_settings(config: TableConfig, layout: Layout) -> None:
    """Raises DataError if a setting has no effect in this layout."""
    for setting, owners in LAYOUTS_OF.items():
        value = getattr(config, setting)
        if layout not in owners and value != default_of(setting):
            names = " and ".join(one.name for one in owners)
            raise DataError(
                f"{setting} = {value!r} is a setting of the layouts {names}, and {layout.name} ignores it: remove it"
            )


def needed_columns(config: TableConfig, columns: Sequence[str]) -> list[str]:
    """The caller's columns, those of captions, and those of `key` and `concept`, whose defaults are optional."""
    named = [name for setting in ("key", "concept") if (name := getattr(config, setting)) != default_of(setting)]
    return list(dict.fromkeys([*columns, *config.captions.values(), *(name for name in named if name is not None)]))


def key_column(config: TableConfig, present: Iterable[str]) -> str | None:
    """The column of keys; `None` if the layout's own keys or row numbers are used."""
    return config.key if config.key in present else None


def only_file(config: TableConfig, what: str) -> str:
    """The one entry of `files`.

    Raises:
        DataError: There are several.
    """
    if len(config.files) != 1:
        raise DataError(f"files names {len(config.files)} entries, and this layout is {what}; make each a set")
    return config.files[0]


def only_folder(config: TableConfig, layout: Layout, data_folder: str | None) -> Path:
    """The one folder that `files` names.

    Raises:
        DataError: It names several, no folder, or a URL.
    """
    place = in_folder(only_file(config, "one folder"), data_folder)
    if is_url(place):
        raise DataError(f"{place} is a URL, and the layout {layout.name} reads local folders: download it first")
    folder = resolve_path(place)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {problem}, and the layout {layout.name} is a folder; correct files or layout")
    return folder


def image_folder(config: TableConfig, default: Path, data_folder: str | None) -> Path:
    """The folder of images of the layouts karpathy and xtd10."""
    return resolve_path(in_folder(config.image_folder, data_folder)) if config.image_folder is not None else default


def image_root(config: TableConfig, data_folder: str | None) -> Path | None:
    """The folder that relative image paths of tables and datasets are resolved against; `None`: the default.

    Raises:
        DataError: It is no folder.
    """
    if config.image_root is None:
        return None
    folder = resolve_path(in_folder(config.image_root, data_folder))
    if not folder.is_dir():
        raise DataError(f"image_root = {folder} is no folder; correct the path")
    return folder


def identity_of(layout: Layout, files: Iterable[str | Path], **settings: object) -> str:
    """Equal for equal layouts, files and settings; local files are resolved."""
    return json.dumps([layout.name, [*_resolved(files)], sorted(settings.items())], ensure_ascii=False, default=str)


def _resolved(files: Iterable[str | Path]) -> Iterator[str]:
    for file in files:
        yield str(file) if is_url(str(file)) else str(Path(file).resolve())
