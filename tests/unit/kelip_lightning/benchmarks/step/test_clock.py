"""The clock of steps, with a clock of its own."""

import itertools

import pytest
import torch

from kelip_lightning.benchmarks.step import clock
from kelip_lightning.benchmarks.step.clock import StepClock


def test_step_clock__times_the_steps_after_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, processor = iter([10.0, 11.0, 13.0, 16.0]), itertools.count(100.0, 0.5)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(clock.time, "process_time", lambda: next(processor))
    timer = StepClock(torch.device("cpu"), warmup=2, steps=3)
    assert [timer.step_ended(torch.tensor(float(step))) for step in range(5)] == [False] * 4 + [True]
    times = timer.times()
    assert times.seconds_per_step == [1.0, 2.0, 3.0]
    assert (times.seconds, times.processor_seconds, times.last_loss) == (6.0, 1.5, 4.0)


def test_step_clock__refuses_to_give_times_too_early() -> None:
    timer = StepClock(torch.device("cpu"), warmup=1, steps=1)
    timer.step_ended(torch.zeros(()))
    with pytest.raises(AssertionError, match="1 of 2 steps"):
        timer.times()
