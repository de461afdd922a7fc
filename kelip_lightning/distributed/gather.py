"""Collectives: all-gather with gradient, and metrics of the global batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    return start_gather(rows)()


def start_gather(rows: Tensor) -> Callable[[], Tensor]:
    """`gather_rows` in two parts: starts the all-gather, and returns a function that waits for it, to be called once.

    What is computed between the two overlaps with the all-gather, and its backward pass with that of the all-gather.
    """
    if not is_distributed():
        return lambda: rows
    exchange = _Exchange()
    gathered: Tensor = _StartGather.apply(rows, exchange)

    def finish() -> Tensor:
        whole: Tensor = _FinishGather.apply(gathered, exchange)
        return whole

    return finish


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


@dataclass(slots=True)
class _Exchange:
    """A collective under way, and the tensors that it reads and writes."""

    work: Any = None
    sent: Any = None
    received: Tensor | None = None


class _StartGather(torch.autograd.Function):
    """Starts an all-gather; ends the reduce-scatter of its backward pass.

    Not torch's: 2.14 deprecates `distributed.nn.functional.all_gather` and `all_gather_tensor_autograd` by a warning.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange, exchange.sent = exchange, rows.contiguous()
        world = dist.get_world_size()
        gathered = rows.new_empty(world * len(rows), *rows.shape[1:])
        exchange.work = dist.all_gather(list(gathered.chunk(world)), exchange.sent, async_op=True)
        return gathered

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, None]:
        exchange: _Exchange = ctx.exchange
        exchange.work.wait()
        exchange.sent = None
        return exchange.received, None


class _FinishGather(torch.autograd.Function):
    """Ends the all-gather; starts the reduce-scatter of its backward pass."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.work.wait()
        exchange.sent = None
        return gathered.view_as(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        exchange: _Exchange = ctx.exchange
        exchange.sent = list(gradients[0].contiguous().chunk(dist.get_world_size()))
        exchange.received = torch.empty_like(exchange.sent[0])
        exchange.work = dist.reduce_scatter(exchange.received, exchange.sent, async_op=True)
        return gradients[0], None
