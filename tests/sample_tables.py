"""Evaluation samples in memory, whose images are 12 raw bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_modules.benchmarks.sample_table import RowIds
from data_modules.errors import DataError
from data_modules.faults import SampleFault


class MemoryTable:
    """Rows of random pixels; some may be unreadable."""

    def __init__(self, identity: str, num_rows: int, broken: Sequence[int] = ()) -> None:
        self.identity, self.columns = identity, ()
        generator = np.random.default_rng(num_rows)
        self.pixels = torch.from_numpy(generator.integers(0, 256, (num_rows, 3, 2, 2), dtype=np.uint8))
        self._broken = set(broken)

    def __len__(self) -> int:
        return len(self.pixels)

    def cells(self, column: str, rows: RowIds) -> list[Any]:
        raise DataError(f"{self.identity} has no column '{column}'; it has none")

    def keys(self, rows: RowIds) -> list[str]:
        return [f"image {row}" for row in rows]

    def image(self, row: int) -> bytes:
        return b"" if row in self._broken else self.pixels[row].numpy().tobytes()


def raw_pixels(data: bytes) -> Tensor:
    """The image of a `MemoryTable`, uint8 (3, 2, 2)."""
    if not data:
        raise SampleFault("image_missing", "there are no bytes")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(3, 2, 2)
