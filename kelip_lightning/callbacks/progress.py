"""The progress bar: stage, steps, time left, loss, both languages' accuracy, speed."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_SHOWN = (
    ("train/loss", "loss", "{:.3f}"),
    ("train/contrastive_accuracy_ko", "ko", "{:.0%}"),
    ("train/contrastive_accuracy_en", "en", "{:.0%}"),
    ("train/pairs_per_second", "pairs/s", "{:.0f}"),
)
"""Logged key, name on the bar, format."""


class PairProgressBar(RichProgressBar):
    """Counts optimizer steps out of `max_steps`, because one epoch of our loaders is the whole run."""

    def __init__(self, stage: str) -> None:
        """Takes the name of the stage, such as "MAE pre-training"."""
        super().__init__()
        self._stage_name = stage

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        """Stage, bar, steps, time left (passed, at the end); the metrics follow. Fits 80 characters."""
        return [
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        ]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the bar, at its step in a resumed run."""
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is None:
            self.train_progress_bar_id = self.progress.add_task(
                self._stage_name, total=trainer.max_steps, completed=trainer.global_step
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if self.train_progress_bar_id is None:
            self.on_train_epoch_start(trainer, pl_module)
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, completed=trainer.global_step)
            self._update_metrics(trainer, pl_module)
            self.refresh()

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The few metrics worth a glance, as text; they are of the last step that was logged, and on the host."""
        logged = trainer.callback_metrics
        return {name: form.format(logged[key].item()) for key, name, form in _SHOWN if key in logged}
