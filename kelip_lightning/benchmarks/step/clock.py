"""The time of training steps, from the end of one to the end of the next."""

import math
import time
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """What a clock has measured."""

    seconds: float
    """Of all timed steps together, by the wall clock."""
    processor_seconds: float
    """The same of all threads of the process."""
    seconds_per_step: list[float]
    """On a GPU the times at which the host began the next step; their sum alone is that of the work."""
    last_loss: float


class StepClock:
    """Times the steps after a warm-up, from the end of one to the end of the next.

    Args:
        device: Waited for before the first and after the last timed step.
        warmup: Steps that are not timed, >= 1.
        steps: Timed steps, >= 1.
    """

    def __init__(self, device: torch.device, warmup: int, steps: int) -> None:
        self.num_steps = warmup + steps
        self._device, self._warmup = device, warmup
        self._count = 0
        self._ends: list[tuple[float, float]] = []
        self._loss = math.nan

    def step_ended(self, loss: Tensor) -> bool:
        """Take the time after a step; True after the last one."""
        self._count += 1
        is_last = self._count == self.num_steps
        if is_last:
            self._loss = float(loss.detach())
        if is_last or self._count == self._warmup:
            self._wait()
        if self._count >= self._warmup:
            self._ends.append((time.perf_counter(), time.process_time()))
        return is_last

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def times(self) -> StepTimes:
        """The times, after the last step."""
        assert self._count == self.num_steps, f"{self._count} of {self.num_steps} steps have ended"
        wall, processor = zip(*self._ends, strict=True)
        return StepTimes(
            seconds=wall[-1] - wall[0],
            processor_seconds=processor[-1] - processor[0],
            seconds_per_step=[end - start for start, end in pairwise(wall)],
            last_loss=self._loss,
        )
