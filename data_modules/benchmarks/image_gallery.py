"""The images of a table, decoded, with some of its columns.

Shapes: M images, S image side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data_modules.errors import DataError
from data_modules.images.transforms.evaluation import table_image
from data_modules.sources.tables import as_text, identities, matching_rows, open_table


@dataclass(kw_only=True, slots=True)
class GalleryConfig:
    """Images among which an analysis seeks, from parquet files."""

    files: list[str]
    """Parquet files or glob patterns; `package:` paths are relative to the installed `data_modules` folder."""
    image: str = "image"
    """Column of encoded images."""
    key: str = "key"
    """Column that identifies an image; its values are unique among the rows that are used."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows, column -> allowed values; empty: all rows."""


@dataclass(kw_only=True, slots=True)
class ImageGallery:
    """Decoded images and what the table says about them."""

    images: Tensor
    """uint8 (M, 3, S, S)."""
    keys: list[str]
    """M unique identities."""
    columns: dict[str, list[str]]
    """Column -> M values as text."""


def build_image_gallery(config: GalleryConfig, image_size: int, columns: Sequence[str] = ()) -> ImageGallery:
    """Read and decode the rows that satisfy `where`.

    Args:
        config: Where the images are.
        image_size: S.
        columns: Further columns to read.

    Raises:
        DataError: A file or column is missing, no row is left, or keys are not unique.
    """
    table = open_table(config.files, config.image, [config.key, *columns])
    rows = matching_rows(table, config.where)
    if not len(rows):
        raise DataError(f"no row of {', '.join(config.files)} satisfies `where` = {config.where}; loosen it")
    chosen, told = table.select(rows), ", ".join(config.files)
    keys = identities(table, config.key, rows, told)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(
            f"{told}: '{twice}' stands twice in the column '{config.key}'; "
            "name a column of unique values as `key`, or narrow `where`"
        )
    cells = chosen.select_columns([config.image])[config.image]
    return ImageGallery(
        images=torch.from_numpy(
            np.stack(
                [table_image(cell, image_size, f"{told}: image '{key}'") for cell, key in zip(cells, keys, strict=True)]
            )
        ),
        keys=keys,
        columns={name: [as_text(value) for value in chosen.select_columns([name])[name]] for name in columns},
    )
