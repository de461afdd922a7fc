"""How fast a run trains, and how much of the time it waits for its data."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.profilers import Profiler

from kelip_lightning.callbacks.non_finite import NonFiniteGuard
from kelip_lightning.modules.stage import is_log_step, on_host


class ThroughputCallback(pl.Callback):
    """Logs `train/pairs_per_second` and `train/data_wait_share` over the last n optimizer steps.

    Pairs of all ranks count (images, in MAE pre-training). `data_wait_share` is the share of that time, in
    [0, 1], in which rank zero waited for its loader. Time spent in other callbacks (evaluation,
    panels, checkpoints) is left out of both, and so is the wait for the first batch, in which the
    workers start. n is the trainer's `log_every_n_steps`.
    """

    def __init__(self) -> None:
        """Starts with an empty window."""
        self._clock: _TrainingClock | None = None
        self._window: deque[_Mark] = deque()
        self._pairs = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Puts the clock between the trainer and its profiler, which learns of every fetch and every hook."""
        if stage == "fit":
            self._clock = _attach_clock(trainer)
            self._window.clear()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the trainer its profiler back."""
        if self._clock is not None:
            _detach_clock(trainer, self._clock)
            self._clock = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the window when the first batch is there."""
        if not self._window:
            # Trainer has the attribute where type checkers do not see it.
            steps: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
            self._window = deque([self._mark()], maxlen=1 + max(1, steps))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs both metrics of the window that ends here, at steps that are logged."""
        self._pairs += len(batch.sample_ids) * trainer.world_size
        self._window.append(self._mark())
        if not is_log_step(trainer):
            return
        first, last = self._window[0], self._window[-1]
        seconds = max(last.seconds - first.seconds, 1e-9)
        metrics = {
            "train/pairs_per_second": (last.pairs - first.pairs) / seconds,
            "train/data_wait_share": (last.waited - first.waited) / seconds,
        }
        pl_module.log_dict(on_host(metrics), on_step=True, on_epoch=False)

    def _mark(self) -> "_Mark":
        assert self._clock is not None
        return _Mark(self._clock.seconds(), self._clock.waited, self._pairs)


@dataclass(slots=True, frozen=True)
class _Mark:
    """Counters at one moment."""

    seconds: float
    """Training time, callbacks left out."""
    waited: float
    """Seconds spent in the loader."""
    pairs: int


class _TrainingClock(Profiler):
    """Adds up loader waits and callback time, and passes everything on to the trainer's own profiler.

    The time of the guard against numbers that are not finite counts as training: on an accelerator
    it waits there for the step that the host has only queued.
    """

    def __init__(self, inner: Profiler) -> None:
        super().__init__()
        self.inner = inner
        self.waited = 0.0
        self._excluded = 0.0
        self._fetch_start = 0.0
        self._callback_start = 0.0
        self._depth = 0

    def seconds(self) -> float:
        """Seconds of training so far, from an arbitrary origin; a running callback's time still counts."""
        return time.perf_counter() - self._excluded

    def start(self, action_name: str) -> None:
        """Notes the beginning of a fetch or of the outermost callback hook."""
        self.inner.start(action_name)
        if action_name.endswith("train_dataloader_next"):
            self._fetch_start = time.perf_counter()
        elif _is_excluded(action_name):
            self._depth += 1
            if self._depth == 1:
                self._callback_start = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Adds up what ended."""
        if action_name.endswith("train_dataloader_next"):
            self.waited += time.perf_counter() - self._fetch_start
        # A hook that began before the clock was put in place ends here without a beginning.
        elif _is_excluded(action_name) and self._depth:
            self._depth -= 1
            if self._depth == 0:
                self._excluded += time.perf_counter() - self._callback_start
        self.inner.stop(action_name)

    def summary(self) -> str:
        """The inner profiler's."""
        return self.inner.summary()

    def describe(self) -> None:
        """Lets the inner profiler report."""
        self.inner.describe()

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Sets the inner profiler up."""
        self.inner.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        """Tears the inner profiler down."""
        self.inner.teardown(stage)


def _is_excluded(action_name: str) -> bool:
    return action_name.startswith("[Callback]") and NonFiniteGuard.__name__ not in action_name


# Trainer sets the attribute that these two use where type checkers do not see them, hence Any.


def _attach_clock(trainer: Any) -> _TrainingClock:
    clock = _TrainingClock(trainer.profiler)
    trainer.profiler = clock
    return clock


def _detach_clock(trainer: Any, clock: _TrainingClock) -> None:
    if trainer.profiler is clock:
        trainer.profiler = clock.inner
