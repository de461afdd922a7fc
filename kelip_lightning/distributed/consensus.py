"""What the ranks must decide alike, or they would wait for one another for ever."""

from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from kelip_lightning.errors import NonFiniteEmbeddingsError


def any_rank(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """Which of the flags are set on some rank; every rank gets the same answer. One small all-reduce.

    Args:
        trainer: The trainer; with one process the flags come back as they are.
        flags: As many on every rank.
    """
    if trainer.world_size == 1:
        return list(flags)
    votes = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def gather_objects(trainer: pl.Trainer, value: Any) -> list[Any]:
    """The value of every rank, in rank order, on every rank. Small values only: they are pickled."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(values, value)
    return values


def fail_together(trainer: pl.Trainer, failure: NonFiniteEmbeddingsError | None) -> None:
    """Let every rank end where one has failed: the others would wait for it in their next collective.

    Args:
        trainer: The trainer.
        failure: What this rank has met, if anything.

    Raises:
        NonFiniteEmbeddingsError: Some rank has met it; on every rank, in the words of the first.
    """
    if not any_rank(trainer, failure is not None)[0]:
        return
    messages = gather_objects(trainer, None if failure is None else str(failure))
    raise NonFiniteEmbeddingsError(next(message for message in messages if message is not None)) from failure
