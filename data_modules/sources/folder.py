"""A folder of images: with a metadata table, as `datasets` reads an `imagefolder`, or images alone.

Reference: Hugging Face datasets, "Create an image dataset", https://huggingface.co/docs/datasets/image_dataset.
Deviation: a metadata table is read from the folder itself only, and images that it does not list are not used; folders
of splits are sources of their own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets

from data_modules.errors import DataError
from data_modules.image_files import METADATA, is_image
from data_modules.paths import resolve_files
from data_modules.sources.config import SourceConfig
from data_modules.sources.tables import TableSource, check_columns, columns_of, open_paths_table

FILE_NAME = "file_name"
"""Column of the image paths in a metadata table."""


def open_folder(name: str, config: SourceConfig) -> TableSource:
    """The images that the metadata table lists, in its order; without one, all below the folder, sorted by path.

    The key of an image is the column `key` of the metadata, or its path from the folder.

    Raises:
        DataError: There is no image, several metadata tables, or none although captions are named.
    """
    folder = only_folder(f"source '{name}'", config.files)
    table = _listed_images(name, config, folder) if (file := metadata_of(folder)) is None else _described(file, config)
    return TableSource(name, config, table, _Everywhere(folder))


@dataclass(frozen=True, slots=True)
class _Everywhere:
    """The folder of every row."""

    folder: Path

    def __call__(self, _: int) -> Path:
        return self.folder


def only_folder(owner: str, files: list[str]) -> Path:
    """The one folder that `files` names.

    Raises:
        DataError: It names several, or no folder.
    """
    found = resolve_files(files)
    if len(found) != 1 or not found[0].is_dir():
        what = f"{len(found)} places" if len(found) != 1 else f"the file {found[0]}"
        raise DataError(
            f"{owner} is of format folder, and files names {what}: name one folder, and each other one as "
            "a source of its own"
        )
    return found[0]


def metadata_of(folder: Path) -> Path | None:
    """The metadata table of a folder, if it has one.

    Raises:
        DataError: It has several.
    """
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} holds {' and '.join(file.name for file in found)}: keep the one that is meant")
    return found[0] if found else None


def _described(file: Path, config: SourceConfig) -> datasets.Dataset:
    table = open_paths_table(file, *((config.encoding, config.separator) if file.suffix == ".csv" else ()))
    check_columns(file, table.column_names, [FILE_NAME, *(one for one in columns_of(config) if one != config.image)])
    if config.image in table.column_names:
        table = table.remove_columns([config.image])
    if config.key not in table.column_names:
        table = table.add_column(config.key, table[FILE_NAME][:])
    return table.rename_column(FILE_NAME, config.image)


def _listed_images(name: str, config: SourceConfig, folder: Path) -> datasets.Dataset:
    if config.has_captions:
        raise DataError(
            f"source '{name}': {folder} holds no {' or '.join(METADATA[:2])}, and so no captions: add one with the "
            f"column {FILE_NAME} and a column per language, or remove the captions, as images alone serve MAE "
            "pre-training"
        )
    paths = images_below(folder)
    if not paths:
        raise DataError(f"source '{name}': {folder} holds no image; correct the path in files")
    return datasets.Dataset.from_dict({config.image: paths, config.key: paths})


def images_below(folder: Path) -> list[str]:
    """Paths of all images below a folder, from it, sorted by their characters; hidden files are left out.

    Raises:
        DataError: A metadata table lies in a folder below, or a name is not UTF-8.
    """
    paths = []
    for path in _files_below(folder):
        if os.path.basename(path) in METADATA:
            raise DataError(
                f"{folder / path} describes a folder of its own: name {(folder / path).parent} in files, and other "
                "such folders as sources of their own"
            )
        if is_image(path):
            paths.append(path)
    for path in paths:
        if not _is_utf8(path):
            raise DataError(f"the name of {str(folder / path)!a} is not UTF-8: rename it, for example with convmv")
    return sorted(paths)


def _files_below(folder: Path) -> Iterator[str]:
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [
            one for one in folders if one[0] != "." and os.path.realpath(os.path.join(parent, one)) not in seen
        ]
        yield from (Path(parent, name).relative_to(folder).as_posix() for name in names if name[0] != ".")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
