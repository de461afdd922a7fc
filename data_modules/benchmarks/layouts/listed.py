"""Samples whose texts are in memory and whose images are read one by one, from files or from shards."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_modules.benchmarks.sample_table import RowIds
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.sources.tables import as_text, check_columns


class ImageStore(Protocol):
    """The encoded images of the rows. Can be sent to loader workers."""

    def problem(self, row: int) -> str | None:
        """Why a row has no image; `None`: it has one, which is not read."""

    def read(self, row: int) -> bytes:
        """The encoded image of a row.

        Raises:
            SampleFault: It is missing or cannot be read.
        """


class ListedSamples:
    """A `SampleTable` with its cells in memory.

    Args:
        identity: See `SampleTable`.
        context: Subject of error messages.
        values: Column -> cells of all rows.
        names: The layout's own key of each row.
        images: Where the images are.
        key: Column that identifies a row; `None`: `names` do, which must be unique.

    Raises:
        DataError: Two rows have the same name.
    """

    def __init__(
        self,
        *,
        identity: str,
        context: str,
        values: Mapping[str, list[Any]],
        names: list[str],
        images: ImageStore,
        key: str | None,
    ) -> None:
        self.identity, self.context = identity, context
        self.columns: Sequence[str] = list(values)
        self._values, self._names, self._images, self._key = dict(values), names, images, key
        if key is None:
            check_unique(names, range(len(names)))

    def __len__(self) -> int:
        return len(self._names)

    def cells(self, column: str, rows: RowIds) -> list[Any]:
        check_columns(self.context, self.columns, [column])
        values = self._values[column]
        return [values[row] for row in rows]

    def keys(self, rows: RowIds) -> list[str]:
        if self._key is None:
            return [self._names[row] for row in rows]
        return column_keys(self.cells(self._key, rows), self._key, rows, self.context)

    def image_names(self, rows: RowIds) -> list[str]:
        if self._key is None:
            return [self._names[row] for row in rows]
        return cell_texts(self.cells(self._key, rows), self._key, rows, self.context)

    def image_paths(self, rows: RowIds) -> list[str | None]:
        return [self._names[row] for row in rows]

    def label_names(self, column: str) -> list[str] | None:
        return None

    def image_problems(self, rows: RowIds) -> Iterator[tuple[int, str]]:
        for row in rows.tolist():
            if problem := self._images.problem(row):
                yield row, problem

    def image(self, row: int) -> bytes:
        return self._images.read(int(row))

    def require_texts(self, column: str) -> None:
        """Raises DataError if a cell of the column is no text, list of texts or null."""
        for name, cell in zip(self._names, self._values[column], strict=True):
            texts = cell if isinstance(cell, list) else [] if cell is None else [cell]
            if not all(isinstance(text, str) for text in texts):
                raise DataError(
                    f"the column '{column}' of '{name}' holds {str(cell)[:80]!r}, and captions are texts or lists of "
                    "texts; correct it, or name another column in captions"
                )


def column_keys(cells: Sequence[Any], column: str, rows: Sequence[int] | RowIds, context: str) -> list[str]:
    """The cells of a key column as texts.

    Raises:
        DataError: A cell is null, or two are equal.
    """
    keys = cell_texts(cells, column, rows, context)
    check_unique(keys, rows, f"{context}: ")
    return keys


def cell_texts(cells: Sequence[Any], column: str, rows: Sequence[int] | RowIds, context: str) -> list[str]:
    """The cells of a key column as texts, equal ones allowed.

    Raises:
        DataError: A cell is null.
    """
    for row, cell in zip(rows, cells, strict=True):
        if cell is None:
            raise DataError(
                f"{context}: row {row} has nothing in the key column '{column}'; fill it, or name another column as key"
            )
    return [as_text(cell) for cell in cells]


def check_unique(keys: Sequence[str], rows: Sequence[int] | RowIds, subject: str = "") -> None:
    """Raises DataError if two rows have the same key."""
    first: dict[str, int] = {}
    for row, key in zip(rows, keys, strict=True):
        if key in first:
            raise DataError(
                f"{subject}image '{key}' is listed twice, in rows {first[key]} and {int(row)}; give each image its own "
                "name, or one row with a list of its captions"
            )
        first[key] = int(row)


class ImageFiles:
    """Images in files below a folder, looked up when they are read.

    Args:
        folder: The folder.
        candidates: For each row, paths relative to the folder; the first one that exists is read.
    """

    def __init__(self, folder: Path, candidates: list[tuple[str, ...]]) -> None:
        self.folder, self._candidates = folder, candidates

    def __len__(self) -> int:
        return len(self._candidates)

    def find(self, row: int) -> Path | None:
        """The image file of a row; `None` if there is none."""
        files = (self.folder / candidate for candidate in self._candidates[row])
        return next((file for file in files if file.is_file()), None)

    def problem(self, row: int) -> str | None:
        return None if self.find(row) is not None else f"{self.folder} has no file {' or '.join(self._candidates[row])}"

    def read(self, row: int) -> bytes:
        file = self.find(row)
        if file is None:
            raise SampleFault("image_missing", str(self.problem(row)))
        try:
            content = file.read_bytes()
        except OSError as error:
            raise SampleFault("read_failed", f"{file}: {error}") from error
        if not content:
            raise SampleFault("image_missing", f"{file} is empty")
        return content

    def require_some(self) -> None:
        """Raises DataError if the folder has none of the images."""
        if not self.folder.is_dir():
            raise DataError(f"image_folder {self.folder} does not exist or is no folder; correct image_folder")
        if self._candidates and not any(self.find(row) for row in range(len(self._candidates))):
            raise DataError(
                f"image_folder {self.folder} has none of the {len(self._candidates)} images, for example "
                f"{' or '.join(self._candidates[0])}; correct image_folder"
            )


def check_relative(name: str, place: object) -> None:
    """Raises DataError if the name of an image is absolute or leaves its folder."""
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{place} names the image {name!r}, which is empty, absolute or leaves its folder; correct it")
