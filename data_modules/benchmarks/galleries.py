"""Image galleries of the analyses: decoded images with some columns of their table.

Shapes: M images, S image side.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.benchmarks.config import GalleryConfig
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.transforms.evaluation import evaluation_image
from data_modules.sources.tables import as_text, identities, matching_rows, open_table


@dataclass(kw_only=True, slots=True)
class ImageGallery:
    """Decoded images with some columns of their table."""

    images: Tensor
    """uint8 (M, 3, S, S)."""
    keys: list[str]
    """M unique keys."""
    columns: dict[str, list[str]]
    """Column -> M values as text."""


def image_digests(images: Tensor) -> list[bytes]:
    """A 16-byte hash of pixels and size for each image of uint8 (N, 3, H, W)."""
    start = str(tuple(images.shape[1:])).encode()
    return [hashlib.blake2b(start + image.tobytes(), digest_size=16).digest() for image in images.numpy()]


def build_image_gallery(config: GalleryConfig, image_size: int, columns: Sequence[str] = ()) -> ImageGallery:
    """The images of the rows that satisfy `where`, with further columns.

    Raises:
        DataError: A file or column is missing, no row matches, or keys are not unique.
    """
    table, context = open_table(config.files, config.image, [config.key, *columns]), ", ".join(config.files)
    rows = matching_rows(table, config.where)
    if not len(rows):
        raise DataError(f"no row of {context} satisfies `where` = {config.where}; loosen it")
    keys = identities(table, config.key, rows, context)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(
            f"{context}: '{twice}' is not unique in the column '{config.key}'; "
            "name a column of unique values as `key`, or narrow `where`"
        )
    return ImageGallery(
        images=_images(table, config, rows, image_size, context),
        keys=keys,
        columns={name: [as_text(value) for value in _cells(table, name, rows)] for name in columns},
    )


def _cells(table: datasets.Dataset, column: str, rows: Any) -> Iterable[Any]:
    cells: Iterable[Any] = table.select_columns([column]).select(rows)[column]
    return cells


def _images(table: datasets.Dataset, config: GalleryConfig, rows: Any, image_size: int, context: str) -> Tensor:
    keys = identities(table, config.key, rows, context)
    cells = zip(_cells(table, config.image, rows), keys, strict=True)
    images = [table_image(cell, image_size, f"{context}: image '{key}'") for cell, key in cells]
    return torch.from_numpy(np.stack(images))


def table_image(cell: object, image_size: int, context: str) -> NDArray[np.uint8]:
    """The evaluation image of a table's cell with `bytes`, uint8 (3, S, S); `context` names it in errors.

    Raises:
        DataError: The cell holds no bytes, or they are not an image.
    """
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(content, bytes):
        raise DataError(f"{context} is {type(content).__name__}, not the bytes of a file; store the image in the table")
    try:
        return evaluation_image(content, image_size)
    except SampleFault as fault:
        raise DataError(f"{context}: {fault}; replace it, or remove its row") from fault
