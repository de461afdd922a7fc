"""Losses over the logit matrix (queries of this rank x keys of all ranks), computed in tiles of rows.

A tile has as many whole rows as make B * max_logits logits. The forward pass computes the loss and the gradient of each
tile, and the backward pass scales the gradients: no logits are stored and nothing is recomputed. Memory grows with
B * max_logits instead of B * G.

Products have float32 precision, optionally on tensor cores (3xTF32): the gradient error must stay below 1e-5 (`make
gradient-certificate`), for which single TF32 (11 bits) or bfloat16 (8 bits) products are too inexact. A float32 matrix
is split into two TF32 halves (21 bits together), and three products of halves are accumulated in float32.

Shapes: B queries of this rank, G keys of all ranks, R rows of a tile, E width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from kelip_lightning.losses.config import MatmulPrecision

_KEPT, _HALF = -(1 << 13), 1 << 12
"""Mask of the mantissa bits that TF32 keeps (it drops the last 13 of 23), and half of the last kept bit."""


class Products:
    """Products of float32 matrices given as parts: the whole matrix, or its two TF32 halves."""

    def __init__(self, precision: MatmulPrecision, device: torch.device) -> None:
        if precision is MatmulPrecision.auto:
            precision = MatmulPrecision.tf32x3 if _has_tf32(device) else MatmulPrecision.float32
        self._halves = precision is MatmulPrecision.tf32x3
        self._on_cuda = device.type == "cuda"

    def parts(self, matrix: Tensor, *, overwrite: bool = False) -> tuple[Tensor, ...]:
        """The matrix itself, or its two halves; `overwrite` lets the second use the matrix's memory."""
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
        """Add the product of two matrices, from their parts, to `total` in place."""
        with self._tensor_cores():
            for pair in _pairs(left, right):
                total.addmm_(*pair)

    @contextmanager
    def _tensor_cores(self) -> Iterator[None]:
        """Set torch's TF32 switch: on for halves, which are TF32 numbers, off for whole matrices."""
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
    """The parts to multiply, the largest product last; that of both second halves is below float32's rounding."""
    if len(left) == 1:
        return [(left[0], right[0])]
    return [(left[1], right[0]), (left[0], right[1]), (left[0], right[0])]


def _rounded(matrix: Tensor) -> Tensor:
    """Round to TF32. Some NaNs become zeros here, but remain NaNs in the second half."""
    assert matrix.dtype == torch.float32, "the features of a loss are float32"
    return (matrix.view(torch.int32) + _HALF).bitwise_and_(_KEPT).view(torch.float32)


@cache
def _has_tf32(device: torch.device) -> bool:
    """Whether the device has TF32 tensor cores: NVIDIA GPUs since Ampere."""
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits (R, G) and the column of each row's own key, int64 (R,) -> the sum of the rows' losses.

Overwrites the logits with their gradient.
"""


@dataclass(frozen=True, slots=True)
class Operand:
    """A detached tensor, and its accumulated gradient."""

    value: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """The tensor with a gradient of zero."""
        return cls(tensor.detach(), torch.zeros_like(tensor))

    def __getitem__(self, index: int | slice) -> "Operand":
        """Views of a part of both."""
        return Operand(self.value[index], self.gradient[index])


class TiledMatrix:
    """Sums of row losses over logit_scale * query @ key^T + logit_bias, with their gradients.

    Args:
        scale: Factor on the products, (1,) or scalar.
        bias: Added to the logits, (1,) or scalar, or `None`.
        max_logits: Logits of a tile over B, at least 1; `None` for one tile.
        products: Matrix products.
    """

    def __init__(self, scale: Operand, bias: Operand | None, max_logits: int | None, products: Products) -> None:
        self._scale, self._bias, self._max_logits, self._products = scale, bias, max_logits, products

    @torch.no_grad()
    def add(
        self, query: Operand, key: Operand, target_B: Tensor, row_loss: RowLoss, weight: float
    ) -> tuple[Tensor, Tensor]:
        """Sum the losses of all rows, and add `weight` times the gradients to those of the operands.

        Args:
            query: (B, E), this rank's features of one modality.
            key: (G, E), all ranks' features of the other modality.
            target_B: int64, the index of each query's own key.
            row_loss: The loss of rows.
            weight: Factor on the gradients.

        Returns:
            The sum, unweighted, scalar; and bool (B,): whether a query's own key has the highest logit.
        """
        total = query.value.new_zeros(())
        correct_B = torch.zeros_like(target_B, dtype=torch.bool)
        keys = self._products.parts(key.value)
        for rows in self._tiles(len(query.value), len(key.value)):
            loss, correct_B[rows] = self._add_tile(query[rows], key, keys, target_B[rows], row_loss, weight)
            total += loss
        return total, correct_B

    def _add_tile(
        self,
        query: Operand,
        key: Operand,
        keys: Sequence[Tensor],
        target_R: Tensor,
        row_loss: RowLoss,
        weight: float,
    ) -> tuple[Tensor, Tensor]:
        """`add` for one tile; a separate function, so that the tile is freed before the next one."""
        scaled_RE = self._products.parts(self._scale.value * query.value, overwrite=True)
        logits_RG = self._products.multiply(scaled_RE, transposed(keys))
        if self._bias is not None:
            logits_RG += self._bias.value
        correct_R = logits_RG.argmax(dim=1) == target_R
        loss = row_loss(logits_RG, target_R)
        gradient_RG = logits_RG.mul_(weight)
        if self._bias is not None:
            self._bias.gradient.add_(gradient_RG.sum())
        gradients_RG = self._products.parts(gradient_RG, overwrite=True)
        self._products.add(key.gradient, transposed(gradients_RG), scaled_RE)
        scaled_gradient_RE = self._products.multiply(gradients_RG, keys)
        self._scale.gradient.add_((scaled_gradient_RE * query.value).sum())
        query.gradient.add_(scaled_gradient_RE.mul_(self._scale.value))
        return loss, correct_R

    def _tiles(self, num_queries: int, num_keys: int) -> Iterator[slice]:
        size = num_queries if self._max_logits is None else max(1, num_queries * self._max_logits // num_keys)
        for start in range(0, num_queries, size):
            yield slice(start, min(start + size, num_queries))


def with_gradients(value: Tensor, inputs: Sequence[Tensor], operands: Sequence[Operand]) -> Tensor:
    """Attach the operands' gradients to the scalar `value`, as gradients with respect to `inputs`.

    The backward pass overwrites them, so there can be only one.
    """
    result: Tensor = _WithGradients.apply(value, [operand.gradient for operand in operands], *inputs)
    return result


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *_inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("this loss has no second backward pass: its gradients are used up")
        return None, None, *(gradient.mul_(upstream[0]) for gradient in gradients)


def info_nce_rows(logits_RG: Tensor, target_R: Tensor) -> Tensor:
    """Sum of the rows' cross-entropies; the gradient is softmax minus one at the target.

    In place: torch's logsumexp would allocate copies of the logits.
    """
    target, highest_R1 = target_R.unsqueeze(1), logits_RG.amax(dim=1, keepdim=True)
    own_R1 = logits_RG.gather(1, target)
    sum_R1 = logits_RG.sub_(highest_R1).exp_().sum(dim=1, keepdim=True)
    _subtract_one(logits_RG.div_(sum_R1), target)
    return (sum_R1.log() + highest_R1 - own_R1).sum()


def sigmoid_rows(logits_RG: Tensor, target_R: Tensor) -> Tensor:
    """Sum over all entries of -log sigmoid(z * logit), z = 1 at the target and -1 elsewhere.

    For z = -1 that is softplus(logit), with gradient sigmoid(logit); at the target it is smaller by the logit.
    """
    target = target_R.unsqueeze(1)
    loss = torch.nn.functional.softplus(logits_RG).sum() - logits_RG.gather(1, target).sum()
    _subtract_one(logits_RG.sigmoid_(), target)
    return loss


def _subtract_one(values_RG: Tensor, target_R1: Tensor) -> None:
    """Subtract 1 at one column of each row, in place, by a minimum: deterministic on CUDA, unlike `scatter_add_`."""
    values_RG.scatter_reduce_(1, target_R1, values_RG.gather(1, target_R1) - 1, "amin")
