"""Rows of a table that show the same image, and images that are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class SameImages:
    """The images of some rows."""

    names: list[str]
    """Of each image, in the order of their first rows."""
    first: NDArray[np.int64]
    """The position of each image's first row."""
    image_of: NDArray[np.int64]
    """int64 (N,): the image of each row."""


def same_images(table: SampleTable, rows: RowIds, context: str) -> SameImages:
    """Group rows by image: by their keys, else by the files of their images; an image in a table without keys is alone.

    Raises:
        DataError: Two rows of one key have different images.
    """
    names = table.image_names(rows)
    numbers: dict[str, int] = {}
    first: list[int] = []
    image_of = np.empty(len(names), dtype=np.int64)
    for place, name in enumerate(names):
        image_of[place] = numbers.setdefault(name, len(numbers))
        if image_of[place] == len(first):
            first.append(place)
    found = SameImages(list(numbers), np.array(first, dtype=np.int64), image_of)
    _check_equal(table, rows, found, context)
    return found


def _check_equal(table: SampleTable, rows: RowIds, found: SameImages, context: str) -> None:
    repeated = np.setdiff1d(np.arange(len(rows)), found.first)
    origins = found.first[found.image_of[repeated]]
    paths = table.image_paths(rows[repeated]), table.image_paths(rows[origins])
    for place, origin, path, first_path in zip(repeated.tolist(), origins.tolist(), *paths, strict=True):
        if path is not None and path == first_path:
            continue
        if not _equal(table, int(rows[place]), int(rows[origin])):
            raise DataError(
                f"{context}: the key '{found.names[found.image_of[place]]}' is that of two images, in rows "
                f"{rows[origin]} and {rows[place]}; give each image a key of its own, or name another column in key"
            )


def _equal(table: SampleTable, row: int, other: int) -> bool:
    try:
        return table.image(row) == table.image(other)
    except SampleFault:  # told by `check_images`
        return True


def check_images(table: SampleTable, rows: RowIds, context: str) -> None:
    """Check that the images of these rows are there; none is read.

    Raises:
        DataError: One is missing, or its path is not allowed; names the first ones.
    """
    problems = list(table.image_problems(rows))
    if problems:
        told = "; ".join(f"row {row}: {problem}" for row, problem in problems[:_MOST_NAMED])
        more = "; ..." if len(problems) > _MOST_NAMED else ""
        raise DataError(
            f"{context}: {len(problems)} of {len(rows)} images are missing ({told}{more}); restore them, correct their "
            "paths, or remove their rows"
        )


def rows_of_images(
    table: SampleTable, rows: RowIds, labels: Sequence[int] | NDArray[np.int64], context: str
) -> NDArray[np.int64]:
    """Positions of the first row of each image; rows of one image must have the same label.

    Raises:
        DataError: Two rows of one image have different labels.
    """
    found = same_images(table, rows, context)
    values = np.asarray(labels)
    wrong = np.flatnonzero(values != values[found.first[found.image_of]])
    if len(wrong):
        place, image = int(wrong[0]), int(found.image_of[wrong[0]])
        raise DataError(
            f"{context}: the image '{found.names[image]}' has two classes, in rows {rows[found.first[image]]} and "
            f"{rows[place]}; keep the right one"
        )
    return found.first
