"""The interface of stored evaluation samples: texts by column, and encoded images by row, whatever the layout."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RowIds = NDArray[np.int64]


class SampleTable(Protocol):
    """Rows with texts and an encoded image, opened; images are read one by one. Can be sent to loader workers."""

    identity: str
    """Tables with equal identity have the same rows."""
    columns: Sequence[str]
    """Columns of `cells`."""

    def __len__(self) -> int:
        """Number of rows."""

    def cells(self, column: str, rows: RowIds) -> list[Any]:
        """The cells of a column in these rows, as Python values.

        Raises:
            DataError: There is no such column, or a row cannot be read.
        """

    def keys(self, rows: RowIds) -> list[str]:
        """What identifies each row in messages and panels; unique."""

    def image_names(self, rows: RowIds) -> list[str]:
        """What names the image of each row: its key, else its path, else its number; equal for rows of one image."""

    def image_paths(self, rows: RowIds) -> list[str | None]:
        """The file of each row's image; `None`: the image is stored in the table."""

    def label_names(self, column: str) -> list[str] | None:
        """The names of the numbers in a column, if the table has them."""

    def image_problems(self, rows: RowIds) -> Iterator[tuple[int, str]]:
        """Each row whose image is missing or may not be read, and why; no image is read."""

    def image(self, row: int) -> bytes:
        """The encoded image of a row.

        Raises:
            SampleFault: It is missing or cannot be read.
        """
