"""Throughput on a fake clock and with a loader that sleeps; samples seen and passes over the data."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest

from kelip_lightning.callbacks import monitoring
from kelip_lightning.callbacks.config import NonFiniteConfig
from kelip_lightning.callbacks.monitoring import ThroughputCallback
from kelip_lightning.callbacks.non_finite import NonFiniteGuard
from kelip_lightning.distributed.consensus import StepVote

Fit = Callable[..., tuple[pl.Trainer, Any]]


class _Clock:
    """A clock that only moves on demand."""

    def __init__(self) -> None:
        self.now = 0.0

    def passing(self, seconds: float) -> Callable[[], None]:
        def let_pass() -> None:
            self.now += seconds

        return let_pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(monitoring, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class _SlowCallback(pl.Callback):
    """Takes time at the start and end of every batch, as checkpoints and evaluations do."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait

    def on_train_batch_start(self, *_: Any) -> None:
        self.wait()

    def on_train_batch_end(self, *_: Any) -> None:
        self.wait()


def _throughput(fit: Fit, *between: pl.Callback, **options: Any) -> tuple[float, float]:
    """Pairs per second and data wait share of a fit, with callbacks between the first and the last."""
    callback = ThroughputCallback()
    metrics = fit([callback, *between, callback.last], **{"steps": 8} | options)[0].callback_metrics
    return metrics["contrastive/pairs_per_second"].item(), metrics["contrastive/data_wait_share"].item()


def test_throughput__pairs_and_wait(fit: Fit, clock: _Clock) -> None:
    # Batches of 4 pairs in 0.04 s, a quarter of it in the loader.
    found = _throughput(fit, in_step=clock.passing(0.03), in_fetch=clock.passing(0.01))
    assert found == pytest.approx((100.0, 0.25))


def test_throughput__of_a_loader_that_sleeps(fit: Fit) -> None:
    pairs, share = _throughput(fit, in_fetch=lambda: time.sleep(0.05), in_step=lambda: time.sleep(0.05))
    assert 0.25 < share < 0.6
    assert 10 < pairs < 4 / 0.1
    assert _throughput(fit, in_step=lambda: time.sleep(0.05))[1] < 0.1


def test_throughput__excludes_other_callbacks(fit: Fit, clock: _Clock) -> None:
    found = _throughput(fit, _SlowCallback(clock.passing(5.0)), in_step=clock.passing(0.02))
    assert found == pytest.approx((200.0, 0.0))


def test_throughput__includes_the_guard_in_which_the_host_waits_for_the_device(
    fit: Fit, clock: _Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def hold(*arguments: Any) -> bool:
        clock.passing(0.02)()  # an accelerator's queued work
        return bool(arguments[-1])

    monkeypatch.setattr(StepVote, "hold", hold)
    found = _throughput(fit, NonFiniteGuard(NonFiniteConfig(), tmp_path), in_step=clock.passing(0.02))
    assert found == pytest.approx((100.0, 0.0))


def test_throughput__is_logged_when_the_trainer_logs(fit: Fit) -> None:
    seen: list[bool] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append("contrastive/pairs_per_second" in trainer.callback_metrics)

    _throughput(fit, Look(), steps=5, log_every_n_steps=3)
    assert seen == [False, False, True, True, True]


def test_throughput__window_excludes_a_slow_start(fit: Fit, clock: _Clock) -> None:
    waits = iter([50.0, 50.0, *[0.02] * 6])
    assert _throughput(fit, in_step=lambda: clock.passing(next(waits))()) == pytest.approx((200.0, 0.0))


def test_samples_seen__and_the_passes_over_the_data(fit: Fit) -> None:
    callback = ThroughputCallback(global_batch_size=4, epoch_length=16)
    metrics = fit([callback, callback.last], steps=6)[0].callback_metrics
    assert metrics["contrastive/samples_seen"] == 24
    assert metrics["contrastive/epoch"] == 1.5
