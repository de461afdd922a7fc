"""Pairs per second and the data-wait share, on a clock that only moves when the test says so."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.profilers import SimpleProfiler

from kelip_lightning.callbacks import throughput
from kelip_lightning.callbacks.non_finite import NonFiniteConfig, NonFiniteGuard
from kelip_lightning.callbacks.throughput import ThroughputCallback
from kelip_lightning.distributed.consensus import StepVote


class _Clock:
    """Stands for `time` in the callback's module."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def passing(self, seconds: float) -> Callable[[], None]:
        def let_pass() -> None:
            self.now += seconds

        return let_pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


class _SlowCallback(pl.Callback):
    """Takes its time at the end of every batch, as an evaluation does."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.wait()


def _metrics(trainer: pl.Trainer) -> tuple[float, float]:
    metrics = trainer.callback_metrics
    return metrics["train/pairs_per_second"].item(), metrics["train/data_wait_share"].item()


def test_throughput__pairs_and_wait(fit: Callable[..., Any], clock: _Clock) -> None:
    trainer, _ = fit([ThroughputCallback()], steps=8, in_step=clock.passing(0.03), in_fetch=clock.passing(0.01))
    # Batches of 4 pairs in 0.04 s, a quarter of it in the loader.
    assert _metrics(trainer) == pytest.approx((100.0, 0.25))


@pytest.mark.parametrize("slow_first", [False, True])
def test_throughput__leaves_other_callbacks_out(fit: Callable[..., Any], clock: _Clock, slow_first: bool) -> None:
    callbacks = [ThroughputCallback(), _SlowCallback(clock.passing(5.0))]
    trainer, _ = fit(callbacks[:: -1 if slow_first else 1], steps=8, in_step=clock.passing(0.02))
    assert _metrics(trainer) == pytest.approx((200.0, 0.0))


def test_throughput__counts_the_guard_in_which_the_device_is_waited_for(
    fit: Callable[..., Any], clock: _Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def hold(*arguments: Any) -> bool:
        clock.passing(0.02)()  # an accelerator's queued work
        return bool(arguments[-1])

    monkeypatch.setattr(StepVote, "hold", hold)
    callbacks = [NonFiniteGuard(NonFiniteConfig(), tmp_path), ThroughputCallback()]
    trainer, _ = fit(callbacks, steps=8, in_step=clock.passing(0.02))
    assert _metrics(trainer) == pytest.approx((100.0, 0.0))


def test_throughput__is_logged_where_the_trainer_logs(fit: Callable[..., Any]) -> None:
    seen: list[bool] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append("train/pairs_per_second" in trainer.callback_metrics)

    fit([ThroughputCallback(), Look()], steps=5, log_every_n_steps=3)
    assert seen == [False, False, True, True, True]


def test_throughput__window_forgets_a_slow_start(fit: Callable[..., Any], clock: _Clock) -> None:
    waits = iter([50.0, 50.0, *[0.02] * 6])
    trainer, _ = fit([ThroughputCallback()], steps=8, in_step=lambda: clock.passing(next(waits))())
    assert _metrics(trainer) == pytest.approx((200.0, 0.0))


def test_throughput__keeps_the_trainers_own_profiler_working(fit: Callable[..., Any]) -> None:
    profiler = SimpleProfiler()
    trainer: Any = fit([ThroughputCallback()], steps=3, profiler=profiler)[0]
    assert trainer.profiler is profiler
    assert len(profiler.recorded_durations["run_training_batch"]) == 3
