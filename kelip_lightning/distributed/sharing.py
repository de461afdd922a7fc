"""Work shared by ranks in blocks, and errors that end all of them; without Lightning."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from data_modules.errors import DataError
from kelip_lightning.distributed.gather import is_distributed
from kelip_lightning.errors import NonFiniteEmbeddingsError

_RAISED_ALIKE: tuple[type[Exception], ...] = (NonFiniteEmbeddingsError, DataError)
"""Errors that other ranks raise as the same class; others become RuntimeError there."""


def rank_and_world(group: Any = None) -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without a process group."""
    return (dist.get_rank(group), dist.get_world_size(group)) if is_distributed() else (0, 1)


def blocks_of(num_items: int, size: int) -> list[slice]:
    """Consecutive blocks of `size` items; the last one may be smaller."""
    return [slice(start, min(start + size, num_items)) for start in range(0, num_items, size)]


def rows_in_blocks(num_items: int, size: int, compute: Callable[[slice], Tensor], group: Any = None) -> Tensor:
    """The rows that `compute` gives for blocks of items, each block on one rank; all rows in order on every rank.

    The blocks do not depend on the number of ranks: each is computed with the same shapes and gives the same bits.

    Args:
        num_items: At least 1, the same on every rank.
        size: Items of a block.
        compute: Block -> a row (...) per item.
        group: Process group; `None`: all processes.

    Raises:
        Exception: What `compute` raised on any rank, see `raised_together`.
    """
    blocks, (rank, world) = blocks_of(num_items, size), rank_and_world(group)
    own: list[Tensor] = []
    with raised_together(group):
        # A rank without blocks needs the shape of a row to take part in the gathering.
        own = [compute(block) for block in blocks[rank::world]] or [compute(slice(0, 1))[:0]]
    if world == 1:
        return torch.cat(own)
    parts = gather_all_tensors(torch.cat(own), group=group)
    whole = torch.empty(num_items, *parts[0].shape[1:], dtype=parts[0].dtype, device=parts[0].device)
    for part, rows in enumerate(parts):
        start = 0
        for block in blocks[part::world]:
            whole[block] = rows[start : start + block.stop - block.start]
            start += block.stop - block.start
    return whole


@contextmanager
def raised_together(group: Any = None) -> Iterator[None]:
    """An exception that the block raises on one rank is raised on all, as the others would wait for it for ever.

    The block must hold no collective.

    Raises:
        Exception: On its own rank the exception itself; elsewhere the first failing rank's, with its message.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    if is_distributed():
        found: list[Any] = [None] * dist.get_world_size(group)
        kind = next((at for at, one in enumerate(_RAISED_ALIKE) if isinstance(error, one)), None)
        own = None if error is None else (kind, str(error) or type(error).__name__)
        dist.all_gather_object(found, own, group=group)
        first = next((one for one in found if one is not None), None)
        if error is None and first is not None:
            raise (RuntimeError if first[0] is None else _RAISED_ALIKE[first[0]])(first[1])
    if error is not None:
        raise error
