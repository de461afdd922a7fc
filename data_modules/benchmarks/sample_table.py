"""The interface of stored evaluation samples: texts by column, and encoded images by row, whatever the layout."""

from collections.abc import Sequence
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

    def image(self, row: int) -> bytes:
        """The encoded image of a row.

        Raises:
            SampleFault: It is missing or cannot be read.
        """
