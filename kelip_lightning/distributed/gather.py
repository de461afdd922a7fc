"""Collectives: rows with gradients, and metrics of the global batch."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether more than one process trains together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order, (world * B, ...); gradients flow back to the rank that owns a row.

    Every rank must hold the same number of rows, and every rank must take part in the backward pass.
    """
    gathered: Tensor = _GatherRows.apply(rows) if is_distributed() else rows
    return gathered


@torch.no_grad()
def global_ratios(numerators: Sequence[Tensor], denominators: Sequence[Tensor | float]) -> list[float]:
    """Each sum of numerators over all ranks, over the sum of denominators; NaN where that is zero.

    One collective for all of them, and one wait of the host.

    Args:
        numerators: Scalars on the device, as many on every rank.
        denominators: One for each.
    """
    like = numerators[0].float()
    rows = [
        *(numerator.float().reshape(()) for numerator in numerators),
        *(one.float().reshape(()) if isinstance(one, Tensor) else like.new_full((), one) for one in denominators),
    ]
    own = torch.stack(rows)
    ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())] if is_distributed() else [own]
    if is_distributed():
        dist.all_gather(ranks, own)
    sums = [math.fsum(column) for column in zip(*torch.stack(ranks).tolist(), strict=True)]
    above, below = sums[: len(numerators)], sums[len(numerators) :]
    return [a / b if b else math.nan for a, b in zip(above, below, strict=True)]


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward is its transpose: the sum over ranks of the gradient of each rank's own rows.

    Deviation: off NCCL, torch's `distributed.nn.functional.all_gather` sends the gradients contiguously but receives
    them into buffers with the strides of its own, so that a gradient that comes transposed ends up permuted, in
    silence; here both directions are contiguous.
    """

    @staticmethod
    def forward(_ctx: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        pieces = list(gradients[0].contiguous().chunk(dist.get_world_size()))
        own = torch.empty_like(pieces[0])
        dist.reduce_scatter(own, pieces)
        return own
