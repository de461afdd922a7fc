"""Ctrl-C and termination: finish the step, write a checkpoint, stop."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl

_log = logging.getLogger(__name__)

Handler = Any
"""What `signal.signal` takes and returns."""


class StageInterrupted(KeyboardInterrupt):
    """A stage was stopped by a signal; its checkpoint is written."""

    def __init__(self, checkpoint: Path, step: int) -> None:
        self.checkpoint, self.step = checkpoint, step
        super().__init__(f"stopped after step {step}; checkpoint: {checkpoint}")


class InterruptionCallback(pl.Callback):
    """Turns the first SIGINT or SIGTERM into a checkpoint at the end of the step under way.

    A second SIGINT interrupts at once, without a checkpoint. Handlers are replaced from the first step to the last,
    so that nothing outside training changes.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.interrupted_at: int | None = None
        """Optimizer steps done when the run was stopped; none if it was not."""
        self._signalled = False
        self._previous: dict[int, Handler] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signalled = True
        _log.warning("interrupted: finishing this step, then writing a checkpoint (Ctrl-C again: stop at once)")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the checkpoint and stop, once per run, on a step's last micro-batch.

        After the last step nothing is left to stop: what is under way is written to the end.
        """
        step_is_whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        unfinished = trainer.global_step < trainer.max_steps
        if self.interrupted_at is None and step_is_whole and unfinished and self._any_rank_signalled(trainer):
            self.interrupted_at = trainer.global_step
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True

    def _any_rank_signalled(self, trainer: pl.Trainer) -> bool:
        if trainer.world_size == 1:
            return self._signalled
        return bool(trainer.strategy.reduce_boolean_decision(self._signalled, all=False))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back; in `teardown` it would be too late: Lightning has restored its own by then."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
