"""The images in a column of a table or a Hugging Face dataset: stored there, or files that it names."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_modules.benchmarks.sample_table import RowIds
from data_modules.faults import SampleFault, sample_errors
from data_modules.sources.tables import image_bytes

_REMEDY = ": make it relative to the table, name its folder in image_root, or set allow_absolute_paths: true"


class CellImages:
    """The images of the rows. Can be sent to loader workers.

    Args:
        table: The rows, images left encoded.
        column: Column of images: bytes, paths, or structs with `bytes` or `path`.
        root: Folder that relative paths are resolved against; `None`: `folder_of`.
        folder_of: Row -> this folder; `None`: the working directory.
        allows_absolute: Whether a path may be absolute.
        allows_leaving: Whether a path may leave its folder by `..`.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        column: str,
        *,
        root: Path | None = None,
        folder_of: Callable[[int], Path] | None = None,
        allows_absolute: bool = False,
        allows_leaving: bool = False,
    ) -> None:
        self._cells, self._column = table.select_columns([column]), column
        self._root, self._folder_of = root, folder_of
        self._allows_absolute, self._allows_leaving = allows_absolute, allows_leaving

    def read(self, row: int) -> bytes:
        """The encoded image of a row.

        Raises:
            SampleFault: It is missing, may not be read, or cannot be read.
        """
        with sample_errors(str(row)):
            content, _ = image_bytes(
                self._cells[row][self._column],
                self._folder(row),
                allows_absolute=self._allows_absolute,
                allows_leaving=self._allows_leaving,
                remedy=_REMEDY,
            )
            if not content:
                raise SampleFault("image_missing", "the image has no bytes")
            return content

    def paths(self, rows: RowIds) -> list[str | None]:
        """The file of each row's image, normalised; `None`: the image is stored, or there is none."""
        return [
            os.path.normpath(self._folder(row) / name) if name is not None else None
            for row, name in zip(rows.tolist(), self._names(rows), strict=True)
        ]

    def problems(self, rows: RowIds) -> Iterator[tuple[int, str]]:
        """Each row whose image is missing or may not be read, and why; no image is read."""
        stored = self._has_bytes(rows)
        for row, name, has_bytes in zip(rows.tolist(), self._names(rows), stored.tolist(), strict=True):
            if not has_bytes and (problem := self._problem(row, name)):
                yield row, problem

    def _problem(self, row: int, name: str | None) -> str | None:
        if name is None:
            return "the row has no image"
        path = PurePath(name)
        is_refused = (path.is_absolute() and not self._allows_absolute) or (
            ".." in path.parts and not self._allows_leaving
        )
        if is_refused:
            return f"{name!r} is absolute or leaves {self._folder(row)}{_REMEDY}"
        return None if (self._folder(row) / path).is_file() else f"{self._folder(row) / path} does not exist"

    def _folder(self, row: int) -> Path:
        if self._root is not None:
            return self._root
        return self._folder_of(row) if self._folder_of is not None else Path()

    def _names(self, rows: RowIds) -> list[str | None]:
        """The path in each cell without bytes; `None`: there is none."""
        kind = self._arrow.type
        if _is_text(kind):
            paths: Any = self._arrow
        elif pa.types.is_struct(kind) and "path" in _fields(kind):
            paths = pc.struct_field(self._arrow, "path")
        else:
            return [None] * len(rows)
        stored = self._has_bytes(rows)
        cells = paths.take(pa.array(self._places(rows))).to_pylist()
        return [
            cell if isinstance(cell, str) and cell.strip() and not has_bytes else None
            for cell, has_bytes in zip(cells, stored.tolist(), strict=True)
        ]

    def _has_bytes(self, rows: RowIds) -> NDArray[np.bool_]:
        """Whether each cell holds bytes, by their length, without reading them."""
        kind: Any = self._arrow.type
        content: Any = self._arrow
        if pa.types.is_struct(kind):
            if "bytes" not in _fields(kind):
                return np.zeros(len(rows), dtype=bool)
            content = pc.struct_field(content, "bytes")
        if _is_text(content.type) or pa.types.is_null(content.type):
            return np.zeros(len(rows), dtype=bool)
        sizes = pc.fill_null(pc.binary_length(content), 0)
        return np.asarray(sizes.to_numpy()[self._places(rows)] > 0, dtype=bool)

    @property
    def _arrow(self) -> pa.ChunkedArray:
        column = self._cells.data.column(self._column)
        is_extension = isinstance(column.type, pa.BaseExtensionType)
        return column.cast(column.type.storage_type) if is_extension else column

    def _places(self, rows: RowIds) -> NDArray[np.int64]:
        """Places of the rows in the Arrow table, which differ in a dataset that was filtered or sorted."""
        order = self._cells._indices
        places = np.asarray(rows, dtype=np.int64)
        return places if order is None else np.asarray(order.column(0).to_numpy()[places], dtype=np.int64)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fields(kind: pa.StructType) -> set[str]:
    return {kind.field(number).name for number in range(kind.num_fields)}
