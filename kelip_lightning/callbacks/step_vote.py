"""What the ranks decide alike at each optimizer step: the one place in it where the host waits for the device."""

from collections.abc import Callable

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor

from kelip_lightning.distributed.consensus import any_rank

Question = Callable[[], bool]
"""Asked on every rank."""


class StepVote:
    """One vote of all ranks per optimizer step, shared by the callbacks that need one: one all-reduce, read once.

    It is held between the backward pass and the optimizer step, where it must be known whether a loss or gradient is
    not finite. The questions of others are answered on the way, and looked at before the next step.
    """

    def __init__(self) -> None:
        self._questions: list[Question] = []
        self._answers: list[bool] | None = None

    def ask(self, *questions: Question) -> None:
        """Put questions to every later vote; all ranks put the same ones in the same order."""
        self._questions += questions

    def hold(self, trainer: pl.Trainer, flag: Tensor) -> bool:
        """Whether a flag is set on some rank; every rank gets the same answer.

        Args:
            trainer: The trainer.
            flag: bool, scalar, on the device.
        """
        if trainer.world_size == 1:
            return bool(flag)
        votes = torch.zeros(1 + len(self._questions), dtype=torch.int32, device=flag.device)
        votes[0] = flag
        for place, question in enumerate(self._questions, start=1):
            if question():
                votes[place].fill_(1)  # a number of the host that is written by a kernel, not copied
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        first, *others = [bool(vote) for vote in votes.tolist()]
        self._answers = others
        return first

    def answers(self, trainer: pl.Trainer, *, anew: bool = False) -> list[bool]:
        """The answers to all questions, in their order; every rank gets the same.

        They are those of the vote held since the last call, as old as that is. One process, which need not wait for
        anybody, and all processes where no vote has been held since, answer now.

        Args:
            trainer: The trainer.
            anew: Whether to vote again, on every rank alike.
        """
        answers, self._answers = self._answers, None
        if anew or answers is None or trainer.world_size == 1:
            return any_rank(trainer, *(question() for question in self._questions))
        return answers
