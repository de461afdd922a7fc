"""Throughput on a fake clock and with a loader that sleeps, the progress bar, and the HParams page."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from kelip_lightning.callbacks import monitoring
from kelip_lightning.callbacks.config import NonFiniteConfig
from kelip_lightning.callbacks.monitoring import (
    HyperparametersCallback,
    PairProgressBar,
    ThroughputCallback,
    flatten_settings,
)
from kelip_lightning.callbacks.non_finite import NonFiniteGuard
from kelip_lightning.distributed.consensus import StepVote

SETTINGS = {"optimizer.name": "muon", "optimizer.learning_rate": 0.002, "trainer.devices": 1, "deterministic": True}
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


def _shown(bar: RichProgressBar) -> str:
    assert bar.progress is not None
    console = Console(file=io.StringIO(), width=160)
    console.print(bar.progress.make_tasks_table(bar.progress.tasks))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_pair_progress_bar__stage_steps_and_metrics(fit: Fit) -> None:
    bar = PairProgressBar("contrastive")
    fit([ThroughputCallback(), bar], steps=3, enable_progress_bar=True)
    assert bar.progress is not None
    task = bar.progress.tasks[0]
    assert (task.description, task.total, task.completed) == ("contrastive", 3, 3)
    metrics = bar.get_metrics(bar.trainer, bar.trainer.lightning_module)
    assert list(metrics) == ["loss", "ko", "en", "pairs/s"]
    assert (metrics["ko"], metrics["en"]) == ("25%", "50%")
    assert "3/3" in _shown(bar)


def test_pair_progress_bar__without_metrics(fit: Fit) -> None:
    bar = PairProgressBar("MAE pre-training")
    fit([bar], steps=1, enable_progress_bar=True)
    assert "pairs/s" not in bar.get_metrics(bar.trainer, bar.trainer.lightning_module)
    assert "MAE pre-training" in _shown(bar)


def _declarations(folder: Path) -> tuple[dict[str, Any], set[str], list[str]]:
    """Settings, metrics and scalar curves of an event file."""
    events = EventAccumulator(str(folder)).Reload()
    content = {
        tag: HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)
        for tag in events.PluginTagToContent("hparams")
    }
    start = content["_hparams_/session_start_info"].session_start_info.hparams
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    metrics = {info.name.tag for info in content["_hparams_/experiment"].experiment.metric_infos}
    return settings, metrics, events.Tags()["scalars"]


def test_hyperparameters__event_file_holds_settings_and_metrics(fit: Fit, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit([HyperparametersCallback(SETTINGS, ["contrastive/loss", "eval/a_ko"])], steps=1, logger=logger)
    logger.finalize("success")
    settings, metrics, curves = _declarations(tmp_path)
    assert settings == SETTINGS
    assert metrics == {"contrastive/loss", "eval/a_ko"}
    assert "eval/a_ko" not in curves, "declared, not written"


def test_hyperparameters__without_tensorboard(fit: Fit) -> None:
    fit([HyperparametersCallback(SETTINGS, ["contrastive/loss"])], steps=1)


def test_flatten_settings__dotted_keys_and_text_for_the_rest() -> None:
    nested = {"a": {"b": {"c": 1}, "d": None}, "e": [1, "x"], "f": True, "g": 0.5, "h": {}}
    assert flatten_settings(nested) == {"a.b.c": 1, "a.d": "None", "e": "[1, 'x']", "f": True, "g": 0.5}
