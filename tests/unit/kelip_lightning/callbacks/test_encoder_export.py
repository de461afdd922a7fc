"""The export runs once, after the last step, and only then."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest

from kelip_lightning.callbacks.encoder_export import ExportCallback

Fit = Callable[..., tuple[pl.Trainer, Any]]


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def test_export__once_when_every_step_was_taken(fit: Fit) -> None:
    exported: list[float] = []
    fit([ExportCallback(lambda: exported.append(1.0))], steps=3)
    assert exported == [1.0]


def test_export__nothing_when_stopped_early(fit: Fit) -> None:
    exported: list[float] = []
    trainer, _ = fit([StopAt(2), ExportCallback(lambda: exported.append(1.0))], steps=5)
    assert trainer.global_step == 2
    assert exported == []


def test_export__nothing_after_an_error(fit: Fit) -> None:
    exported: list[float] = []

    def fail() -> None:
        raise RuntimeError("broken step")

    with pytest.raises(RuntimeError, match="broken step"):
        fit([ExportCallback(lambda: exported.append(1.0))], in_step=fail)
    assert exported == []


def test_export__an_error_while_writing_is_not_hidden(fit: Fit) -> None:
    def full_disk() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fit([ExportCallback(full_disk)], steps=1)
