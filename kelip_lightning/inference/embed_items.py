"""The items that `kelip embed` and `kelip search` embed: images that stay encoded until they are needed, or texts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.image_files import IMAGE_ENDINGS


class EncodedImages(Protocol):
    """N encoded images; can be sent to loader workers."""

    def read(self, position: int) -> bytes:
        """The bytes of an image file.

        Raises:
            SampleFault: It is missing or cannot be read.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedItems:
    """N items, either images or texts."""

    name: str
    """What they are, for messages."""
    keys: list[str]
    """What identifies each item, unique."""
    content: list[str]
    """Of a text the text itself; of an image something that differs once its file has changed."""
    images: EncodedImages | None = None
    """`None`: the items are texts."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def kind(self) -> str:
        """`images` or `texts`."""
        return "texts" if self.images is None else "images"

    @property
    def content_column(self) -> str:
        """The column of `content` in a file of embeddings."""
        return "text" if self.images is None else "version"


@dataclass(frozen=True, slots=True)
class FolderImages:
    """Image files below a folder."""

    folder: Path
    names: Sequence[str]
    """Paths relative to the folder."""

    def read(self, position: int) -> bytes:
        """The bytes of a file; SampleFault as in `EncodedImages`."""
        file = self.folder / self.names[position]
        try:
            return file.read_bytes()
        except OSError as error:
            raise SampleFault("image_missing", error.strerror or str(error), self.names[position]) from error


@dataclass(frozen=True, slots=True)
class TableImages:
    """Images in some rows of a sample table."""

    table: SampleTable
    rows: RowIds
    """int64 (N,)."""

    def read(self, position: int) -> bytes:
        """The bytes of an image; SampleFault as in `EncodedImages`."""
        return self.table.image(int(self.rows[position]))


def folder_items(folder: Path) -> EmbedItems:
    """The images in a folder and in the folders below it, sorted by path; hidden files and folders are left out.

    Keys are paths relative to the folder; `content` is a file's size and time of modification.

    Raises:
        DataError: There is no image.
    """
    names = sorted(_image_names(folder))
    if not names:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(IMAGE_ENDINGS))}); name a folder of pictures")
    return EmbedItems(
        name=str(folder),
        keys=names,
        content=[_version(folder / name) for name in names],
        images=FolderImages(folder, names),
    )


def _image_names(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder)
        names += [
            (below / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower().lstrip(".") in IMAGE_ENDINGS
        ]
    return names


def _version(file: Path) -> str:
    """Size and time of modification; empty if the file has just vanished, which reading it will report."""
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def table_items(name: str, table: SampleTable, rows: RowIds, version: str) -> EmbedItems:
    """The images of some rows of a sample table; `version` differs once its files have changed."""
    keys = table.keys(rows)
    return EmbedItems(name=name, keys=keys, content=[version] * len(keys), images=TableImages(table, rows))


def text_items(name: str, keys: Sequence[str], cells: Sequence[Sequence[str]]) -> EmbedItems:
    """Texts with the keys of their rows; the second text of a row and those after it have keys `KEY#2`, `KEY#3`, ...

    Raises:
        DataError: There is no text.
    """
    named = [
        (key if place == 0 else f"{key}#{place + 1}", text)
        for key, texts in zip(keys, cells, strict=True)
        for place, text in enumerate(texts)
    ]
    if not named:
        raise DataError(f"{name} holds no text; name another column or set")
    return EmbedItems(name=name, keys=[key for key, _ in named], content=[text for _, text in named])
