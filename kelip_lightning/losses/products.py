"""Matrix products of the losses, in float32 or on tensor cores without losing it.

A loss multiplies float32 matrices, and gradients are held to a bound (`make gradient-certificate`, 1e-5) that products
of rounded operands break: TF32 keeps 11 bits of a number and bfloat16 8. Two TF32 numbers hold 21 bits between them, so
that three products of halves, accumulated in float32, stand in for one of wholes. What is computed is the same on every
device; only tensor cores make it faster.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import cache

import torch
from torch import Tensor

_KEPT, _HALF = -(1 << 13), 1 << 12
"""Of float32's 23 bits behind the leading one, TF32 has no place for the last 13: a mask, and half of what it keeps."""


class MatmulPrecision(Enum):
    """float32: one product, no TF32; tf32x3: three of TF32 halves; auto: tf32x3 where a device has TF32."""

    auto = "auto"
    float32 = "float32"
    tf32x3 = "tf32x3"


class Products:
    """Products of float32 matrices that are given in parts: the whole matrix, or its halves.

    Args:
        precision: How to multiply.
        device: Where the matrices are.
    """

    def __init__(self, precision: MatmulPrecision, device: torch.device) -> None:
        if precision is MatmulPrecision.auto:
            precision = MatmulPrecision.tf32x3 if _has_tf32(device) else MatmulPrecision.float32
        self._halves = precision is MatmulPrecision.tf32x3
        self._on_cuda = device.type == "cuda"

    def parts(self, matrix: Tensor, *, overwrite: bool = False) -> tuple[Tensor, ...]:
        """The matrix itself, or its two halves, the second of which may take the matrix's own memory."""
        if not self._halves:
            return (matrix,)
        high = _rounded(matrix)
        low = matrix.sub_(high) if overwrite else matrix - high
        low.view(torch.int32).bitwise_and_(_KEPT)
        return high, low

    def multiply(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
        """The product of two matrices, from their parts."""
        with self._tensor_cores():
            *corrections, first = _pairs(left, right)
            product = first[0] @ first[1]
            for pair in corrections:
                product.addmm_(*pair)
        return product

    def add(self, total: Tensor, left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        """Add the product of two matrices, from their parts, to a sum in place."""
        with self._tensor_cores():
            for pair in _pairs(left, right):
                total.addmm_(*pair)

    @contextmanager
    def _tensor_cores(self) -> Iterator[None]:
        """Set torch's switch: halves are multiplied as the TF32 numbers that they are, whole matrices without TF32."""
        if not self._on_cuda:
            yield
            return
        switch = torch.backends.cuda.matmul
        before = switch.fp32_precision
        switch.fp32_precision = "tf32" if self._halves else "ieee"
        try:
            yield
        finally:
            switch.fp32_precision = before


def transposed(parts: Sequence[Tensor]) -> list[Tensor]:
    """The parts of the transposed matrix."""
    return [part.T for part in parts]


def _pairs(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Which parts are multiplied, the largest product last; that of two second halves is below float32's rounding."""
    if len(left) == 1:
        return [(left[0], right[0])]
    return [(left[1], right[0]), (left[0], right[1]), (left[0], right[0])]


def _rounded(matrix: Tensor) -> Tensor:
    """The nearest TF32 numbers. Some NaNs become zeros here, and are NaNs still in what is left of the matrix."""
    assert matrix.dtype == torch.float32, "the features of a loss are float32"
    return (matrix.view(torch.int32) + _HALF).bitwise_and_(_KEPT).view(torch.float32)


@cache
def _has_tf32(device: torch.device) -> bool:
    """Whether products of TF32 numbers are faster: on NVIDIA's GPUs from Ampere on."""
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
