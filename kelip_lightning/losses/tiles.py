"""Losses over a matrix of logits, queries of this rank x keys of all ranks, of which only a tile exists at a time.

A tile is a few whole rows, as many as make B * max_logits logits. As a row is whole, its gradient is known as soon as
its logits are: the forward pass computes both, keeps no logits, and the backward pass only scales what is there. Next
to the features and their gradients, memory grows with B * max_logits instead of B * G; nothing is computed twice.

Shapes: B queries of this rank, G keys of all ranks, R rows of a tile, E width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from kelip_lightning.losses.products import Products, transposed

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits (R, G) of some rows and the column of each row's own key, int64 (R,) -> the sum of the rows' losses.

It overwrites the logits with the gradient with respect to them.
"""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of the loss outside autograd, and the place where its gradient is added up."""

    value: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """The tensor with a gradient of zero."""
        return cls(tensor.detach(), torch.zeros_like(tensor))

    def __getitem__(self, index: int | slice) -> "Operand":
        """A part of both, sharing their memory."""
        return Operand(self.value[index], self.gradient[index])


class TiledMatrix:
    """Sums of row losses over logit_scale * query @ key^T + logit_bias, with their gradients.

    Args:
        scale: Factor on the products, (1,) or scalar.
        bias: Added to the logits, (1,) or scalar; none: nothing.
        max_logits: Logits of a tile over B, at least 1; none: the whole matrix is one tile.
        products: How matrices are multiplied.
    """

    def __init__(self, scale: Operand, bias: Operand | None, max_logits: int | None, products: Products) -> None:
        self._scale, self._bias, self._max_logits, self._products = scale, bias, max_logits, products

    @torch.no_grad()
    def add(
        self, query: Operand, key: Operand, target_B: Tensor, row_loss: RowLoss, weight: float
    ) -> tuple[Tensor, Tensor]:
        """Add `weight` times the gradients of the sum of all rows' losses to those of the operands.

        Args:
            query: (B, E), features of one kind, this rank's.
            key: (G, E), features of the other kind, all ranks'.
            target_B: int64, the own key of each query.
            row_loss: The loss of rows.
            weight: Factor on the gradients.

        Returns:
            The sum itself, without the weight, scalar; and bool (B,): whether a query's own key has the highest logit.
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
        """The same of a few rows, with the parts of the key.

        A function of its own, so that a tile is gone before the next one is made.
        """
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
    """The scalar `value`, whose gradient with respect to each input is that of the operand made of it.

    The backward pass uses the gradients up, so there can be one only.
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
    """Sum over rows of the cross-entropy of their softmax; the gradient is softmax less one at the target.

    Every step is in place: torch's logsumexp would make copies as large as the logits.
    """
    target, highest_R1 = target_R.unsqueeze(1), logits_RG.amax(dim=1, keepdim=True)
    own_R1 = logits_RG.gather(1, target)
    sum_R1 = logits_RG.sub_(highest_R1).exp_().sum(dim=1, keepdim=True)
    _subtract_one(logits_RG.div_(sum_R1), target)
    return (sum_R1.log() + highest_R1 - own_R1).sum()


def sigmoid_rows(logits_RG: Tensor, target_R: Tensor) -> Tensor:
    """Sum over all entries of -log sigmoid(z * logit), z = 1 at the target and -1 elsewhere.

    Where z = -1 that is softplus(logit) with gradient sigmoid(logit); at the target it is less by the logit itself.
    """
    target = target_R.unsqueeze(1)
    loss = torch.nn.functional.softplus(logits_RG).sum() - logits_RG.gather(1, target).sum()
    _subtract_one(logits_RG.sigmoid_(), target)
    return loss


def _subtract_one(values_RG: Tensor, target_R1: Tensor) -> None:
    """Take 1 off at one column of each row, in place.

    The lesser of the old and the new value is the new one: unlike `scatter_add_`, a minimum is deterministic on CUDA
    whatever the order of writing.
    """
    values_RG.scatter_reduce_(1, target_R1, values_RG.gather(1, target_R1) - 1, "amin")
