"""When a stage writes checkpoints, how a signal stops it, and the export after its last step."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from kelip_lightning.callbacks.config import BestMode, CheckpointConfig
from kelip_lightning.callbacks.evaluation import IntervalEvaluation
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.distributed.consensus import StepVote, any_rank
from kelip_lightning.distributed.zero import whole_weights
from kelip_lightning.errors import CheckpointWriteError, StageInterrupted
from kelip_lightning.runs import checkpoints
from kelip_lightning.runs.checkpoints import Manifest
from kelip_lightning.runs.folder import StageFolder
from kelip_lightning.runs.timing import phase


class DeferredErrorIO(TorchCheckpointIO):
    """Writes with `torch.save`, and keeps an error in `error` instead of raising it.

    Rank zero writes while the others wait for it, so that an error raised here would leave them waiting;
    `CheckpointCallback` raises it on all ranks.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a file; Lightning's own implementation holds a second copy of everything in memory."""
        try:
            # Through Python's file, whose errors name the cause; torch's own writer reports a wrong position.
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            self.error = error


class CheckpointCallback(pl.Callback):
    """Writes checkpoints between two steps: by steps, by time, when the best metric improves, at signals, at the end.

    It acts before a step instead of after the last one, because the metrics of a step reach the loggers only after
    every hook that follows it; so metrics.jsonl is always complete up to the checkpoint. Rank zero decides by time and
    by the best metric, and any rank may receive a signal: the vote of each step shares both with all ranks. With
    several processes it is held before the optimizer step, so that a later signal takes effect one step later.

    Args:
        config: When to write, and how many checkpoints to keep.
        stage: The folder to write to.
        signals: The signals received.
        clock: Returns the seconds of this stage so far.
        evaluation: The evaluation of the best metric, if any. After a step with an evaluation the vote is repeated, as
            signals may have arrived during it.
        vote: The vote of each step; `None`: this callback's own.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        stage: StageFolder,
        *,
        signals: SignalWatch,
        clock: Callable[[], float],
        evaluation: IntervalEvaluation[Any] | None = None,
        vote: StepVote | None = None,
    ) -> None:
        super().__init__()
        self.io = DeferredErrorIO()
        """To be passed to the Trainer as a plugin."""
        self._config, self._stage, self._folder = config, stage, stage.checkpoints
        self._signals, self._clock, self._evaluation = signals, clock, evaluation
        self._vote = vote or StepVote()
        self._questions = self._vote.ask(lambda: signals.by_user, lambda: signals.by_scheduler, self._is_time)
        self._is_global_zero = False
        self._saved_step = 0
        self._saved_at = clock()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run starts at a saved step."""
        self._is_global_zero = trainer.is_global_zero
        self._saved_step = trainer.global_step
        self._saved_at = self._clock()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Before a step: write the checkpoint that is due, then stop if a signal was received.

        Raises:
            CheckpointWriteError: It could not be written; earlier ones are intact.
            StageInterrupted: Some rank received a signal.
        """
        step = trainer.global_step
        by_user, by_scheduler, is_time = self._vote.answers(trainer, self._questions, anew=self._is_evaluated(step))
        stopped = by_user or by_scheduler
        if step > self._saved_step and (stopped or is_time or self._is_due(trainer, step)):
            self._save(trainer, step)
        if stopped:
            self._signals.handled = True
            newest = self._folder / checkpoints.folder_name(step) if step else None
            raise StageInterrupted(newest, step, by_user=by_user)

    def _is_time(self) -> bool:
        """Whether `every_n_minutes` have passed by rank zero's clock."""
        minutes = self._config.every_n_minutes
        return self._is_global_zero and minutes is not None and (self._clock() - self._saved_at) / 60 >= minutes

    def _is_due(self, trainer: pl.Trainer, step: int) -> bool:
        config = self._config
        if config.every_n_steps is not None and step % config.every_n_steps == 0:
            return True
        if config.best_metric is None or not self._is_evaluated(step):
            return False
        return any_rank(trainer, trainer.is_global_zero and self._is_best(step))[0]

    def _is_evaluated(self, step: int) -> bool:
        return self._evaluation is not None and self._evaluation.was_at(step)

    def _is_best(self, step: int) -> bool:
        metric = self._metric_at(step)
        if metric is None or not math.isfinite(metric):
            return False
        best = checkpoints.best_checkpoint(self._folder, self._config.best_mode.value)
        if best is None or best.manifest.metric is None:
            return True
        sign = 1 if self._config.best_mode is BestMode.max else -1
        return sign * metric > sign * best.manifest.metric

    def _metric_at(self, step: int) -> float | None:
        newest = self._evaluation.newest() if self._evaluation else None
        if self._config.best_metric is None or newest is None or newest[0] != step:
            return None
        return newest[1].get(self._config.best_metric)  # absent where its set is not due at this step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last checkpoint, after the other callbacks have evaluated and exported.

        A stage with this checkpoint has therefore finished. A signal meanwhile stops the run after it.
        """
        if trainer.global_step >= trainer.max_steps and trainer.global_step > self._saved_step:
            self._save(trainer, trainer.global_step)
        self._signals.by_scheduler = any_rank(trainer, self._signals.by_scheduler)[0]

    @phase("checkpoints")
    def _save(self, trainer: pl.Trainer, step: int) -> None:
        partial = checkpoints.partial_folder(self._folder, step)
        self._together(trainer, step, partial, lambda: self._prepare(partial))
        self._together(trainer, step, partial, lambda: self._write(trainer, partial), every_rank=True)
        self._together(trainer, step, partial, lambda: self._seal(trainer, partial, step))
        self._saved_step, self._saved_at = step, self._clock()

    def _together(
        self, trainer: pl.Trainer, step: int, partial: Path, action: Callable[[], None], *, every_rank: bool = False
    ) -> None:
        """Run an action on rank zero, or on all ranks; if it fails on one, raise on all."""
        error: Exception | None = None
        try:
            if every_rank or trainer.is_global_zero:
                action()
        except (OSError, RuntimeError) as caught:
            error = caught
        if any_rank(trainer, error is not None)[0]:
            if trainer.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
            why = f" ({error})" if error else " on another rank"
            raise CheckpointWriteError(f"the checkpoint of step {step} could not be written{why}") from error

    def _prepare(self, partial: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_partial(self._folder)
        partial.mkdir()

    def _write(self, trainer: pl.Trainer, partial: Path) -> None:
        trainer.save_checkpoint(partial / checkpoints.STATE, weights_only=False)
        error, self.io.error = self.io.error, None
        if error is not None:
            raise error

    def _seal(self, trainer: pl.Trainer, partial: Path, step: int) -> None:
        manifest = Manifest(
            stage=self._stage.name,
            step=step,
            world_size=trainer.world_size,
            seconds=self._clock(),
            metrics_bytes=_synced_length(self._stage.metrics_file),
            metric=self._metric_at(step),
            files={},
        )
        checkpoints.seal(partial, manifest)
        best = checkpoints.best_checkpoint(self._folder, self._config.best_mode.value)
        checkpoints.prune(self._folder, self._config.keep_last, best if self._config.best_metric else None)


def _synced_length(file: Path) -> int:
    """Bytes of a file, synced to disk; 0 if it does not exist."""
    if not file.is_file():
        return 0
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        return os.fstat(opened.fileno()).st_size


class ExportCallback(pl.Callback):
    """Calls `export` once on rank zero after the last optimizer step; an interrupted stage exports nothing.

    Args:
        export: Writes the module's weights, or what else the stage gives.
    """

    def __init__(self, export: Callable[[], None]) -> None:
        super().__init__()
        self._export = export

    @phase("export")
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export if every step was taken."""
        if trainer.global_step < trainer.max_steps:
            return
        with whole_weights(trainer.strategy, pl_module):
            if trainer.is_global_zero:
                self._export()
