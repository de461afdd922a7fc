"""Collectives: all-gather with gradient, and metrics of the global batch."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: Tensor) -> Tensor:
    """All-gather with gradient: the rows of all ranks in rank order, (world * B, ...).

    Every rank must have the same number of rows, and take part in the backward pass.
    """
    gathered: Tensor = _GatherRows.apply(rows) if is_distributed() else rows
    return gathered


@torch.no_grad()
def global_ratios(numerators: Sequence[Tensor], denominators: Sequence[Tensor | float]) -> list[float]:
    """Each sum of numerators over all ranks divided by the sum of denominators; NaN where that is zero.

    Numerators are scalars on the device, equally many on every rank. Not torchmetrics: it would gather each state by a
    barrier and a collective of its own; here one collective and one synchronisation serve all.
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
    """All-gather with a reduce-scatter as its backward pass.

    Not torch's: 2.14 deprecates `distributed.nn.functional.all_gather` and `all_gather_tensor_autograd` by a warning.
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
