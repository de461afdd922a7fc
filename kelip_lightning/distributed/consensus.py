"""Decisions that all ranks take alike, which prevents deadlocks in later collectives."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor

from kelip_lightning.distributed.sharing import raised_together

Question = Callable[[], bool]
"""Evaluated on every rank."""


def any_rank(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """For each flag, whether it is set on any rank; one all-reduce. Every rank passes equally many."""
    if trainer.world_size == 1:
        return list(flags)
    votes = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def gather_objects(trainer: pl.Trainer, value: Any) -> list[Any]:
    """The (small, pickled) value of every rank, in rank order, on every rank."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(values, value)
    return values


def fail_together(trainer: pl.Trainer, failure: Exception | None) -> None:
    """Raise the first rank's failure on every rank, as the others would wait for it in their next collective."""
    if not any_rank(trainer, failure is not None)[0]:
        return
    with raised_together():
        if failure is not None:
            raise failure


class StepVote:
    """One vote of all ranks per optimizer step, shared by several callbacks: one all-reduce and one synchronisation.

    It is held between the backward pass and the optimizer step, where a non-finite loss or gradient must be known. The
    answers to the callbacks' questions are read before the next step.
    """

    def __init__(self) -> None:
        self._questions: list[Question] = []
        self._answers: dict[int, bool] = {}

    def ask(self, *questions: Question) -> range:
        """Add questions to every later vote; all ranks add the same ones in the same order. Returns their numbers."""
        first = len(self._questions)
        self._questions += questions
        return range(first, len(self._questions))

    def hold(self, trainer: pl.Trainer, flag: Tensor) -> bool:
        """Whether the flag (bool scalar on the device) is set on any rank."""
        if trainer.world_size == 1:
            return bool(flag)
        votes = torch.zeros(1 + len(self._questions), dtype=torch.int32, device=flag.device)
        votes[0] = flag
        for place, question in enumerate(self._questions, start=1):
            if question():
                votes[place].fill_(1)  # by a kernel: a copy from the host would synchronise
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        first, *others = [bool(vote) for vote in votes.tolist()]
        self._answers = dict(enumerate(others))
        return first

    def answers(self, trainer: pl.Trainer, numbers: range, *, anew: bool = False) -> list[bool]:
        """The answers to these questions, in order, equal on every rank.

        They are those of the vote held since the last call for them. With one process, without such a vote, or with
        `anew` (on every rank), the questions are evaluated now.
        """
        found = [self._answers.pop(number, None) for number in numbers]
        if anew or None in found or trainer.world_size == 1:
            return any_rank(trainer, *(self._questions[number]() for number in numbers))
        return [bool(one) for one in found]
