"""What a user watches during a run: throughput, the progress bar, and TensorBoard's HParams page."""

import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard.summary import hparams

from kelip_lightning.modules.stage import is_log_step, on_host
from kelip_lightning.runs.timing import phase

Setting = bool | float | int | str

_SHOWN = (
    ("train/loss", "loss", "{:.3f}"),
    ("train/contrastive_accuracy_ko", "ko", "{:.0%}"),
    ("train/contrastive_accuracy_en", "en", "{:.0%}"),
    ("train/pairs_per_second", "pairs/s", "{:.0f}"),
)
"""Logged key, name on the progress bar, format."""


class StepCost(NamedTuple):
    """Floating-point operations of a training step, forward and backward."""

    per_sample: float
    """Of an image, or of a pair without its caption."""
    per_token: float
    """Of a token of a caption; scores, whose number grows with the square, are spread over a whole context."""
    peak: float
    """Operations per second that a device can do."""


class _Counters(NamedTuple):
    seconds: float
    """Training time, callbacks at the start and end of a step excluded."""
    waited: float
    """Seconds spent in the loader."""
    pairs: int
    operations: float


class ThroughputCallback(pl.Callback):
    """Logs `train/pairs_per_second` and `train/data_wait_share` over the last n optimizer steps.

    Pairs of all ranks count (images, in MAE pre-training). `data_wait_share` is the share of that time, in [0, 1],
    in which rank zero waited for its loader. Both exclude the other callbacks at the start and end of a step
    (evaluation, panels, checkpoints), which come between this callback and `last` in the Trainer's list, and the wait
    for the first batch, in which the workers start. n is the trainer's `log_every_n_steps`.

    `train/mfu` is the share of the devices' peak, in [0, 1], that the counted operations reach in that time, those of
    tokens and patches that really entered the network (Chowdhery et al. 2022, app. B). `train/peak_memory_gib` is the
    largest memory so far that rank zero's tensors took on its GPU or, on a CPU, its process.

    Args:
        cost: The operations of a step; `None`: there is no `train/mfu`.
    """

    def __init__(self, cost: StepCost | None = None) -> None:
        super().__init__()
        self._cost, self._operations = cost, 0.0
        self.last = _LastCallback(self)
        """Must be the last in the trainer's list."""
        self._window: deque[_Counters] = deque()
        self._waited, self._excluded, self._pairs = 0.0, 0.0, 0
        self._callbacks_start = 0.0

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Measure every fetch of the iterator that the training loop reads."""
        fetcher = trainer.fit_loop._data_fetcher
        fetcher.iterator = self._timed(fetcher.iterator)
        self._window.clear()

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            with phase("loader"):
                batch = next(batches, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - start
            yield batch

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Start the window at the first batch."""
        self._callbacks_start = time.perf_counter()
        if not self._window:
            self._window = deque([self._counters()], maxlen=1 + max(1, trainer.log_every_n_steps))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log both metrics of the window that ends here, at steps that are logged."""
        self._callbacks_start = time.perf_counter()
        self._pairs += len(batch.sample_ids) * trainer.world_size
        if self._cost is not None:
            own = self._cost.per_sample * len(batch.sample_ids)
            own += self._cost.per_token * sum(getattr(batch, "token_counts", []))
            self._operations += own * trainer.world_size
        self._window.append(self._counters())
        if not is_log_step(trainer):
            return
        before, now = self._window[0], self._window[-1]
        seconds, waited, pairs, operations = (end - start for start, end in zip(before, now, strict=True))
        seconds = max(seconds, 1e-9)
        metrics = {
            "train/pairs_per_second": pairs / seconds,
            "train/data_wait_share": waited / seconds,
            "train/peak_memory_gib": _peak_memory(trainer.strategy.root_device) / 2**30,
        }
        if self._cost is not None:
            metrics["train/mfu"] = operations / seconds / (self._cost.peak * trainer.world_size)
        pl_module.log_dict(on_host(metrics), on_step=True, on_epoch=False)

    def _counters(self) -> _Counters:
        return _Counters(self._callbacks_start - self._excluded, self._waited, self._pairs, self._operations)

    def exclude_callbacks(self) -> None:
        """Exclude the time since the start of this hook."""
        self._excluded += time.perf_counter() - self._callbacks_start


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _LastCallback(pl.Callback):
    """Ends the time that a `ThroughputCallback` excludes."""

    def __init__(self, throughput: ThroughputCallback) -> None:
        super().__init__()
        self._throughput = throughput

    def on_train_batch_start(self, *_: Any) -> None:
        """Exclude the callbacks at the start of a step."""
        self._throughput.exclude_callbacks()

    def on_train_batch_end(self, *_: Any) -> None:
        """Exclude the callbacks at the end of a step."""
        self._throughput.exclude_callbacks()


class PairProgressBar(RichProgressBar):
    """Counts optimizer steps out of `max_steps`, because a run is a single Lightning epoch.

    Args:
        stage: Description of the bar, such as "MAE pre-training".
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage_name = stage

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        """Stage, bar, steps, time left (elapsed, at the end); the metrics follow. Fits 80 characters."""
        remaining = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        return [TextColumn("[bold]{task.description}"), BarColumn(bar_width=8), MofNCompleteColumn(), remaining]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at its step in a resumed run."""
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is None:
            self.train_progress_bar_id = self.progress.add_task(
                self._stage_name, total=trainer.max_steps, completed=trainer.global_step
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Advance the bar."""
        self.on_train_epoch_start(trainer, pl_module)
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, completed=trainer.global_step)
            self._update_metrics(trainer, pl_module)
            self.refresh()

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The main metrics of the last logged step, formatted."""
        logged = trainer.callback_metrics
        return {name: form.format(logged[key].item()) for key, name, form in _SHOWN if key in logged}


class HyperparametersCallback(pl.Callback):
    """Declares settings and metrics; the page then shows the last logged value of each metric.

    Lightning's own `log_hyperparams` also writes a first value of every metric, which its curve would show.

    Args:
        settings: Nested plain values; shown by dotted keys, lists and null as text.
        metrics: Names of logged scalars.
    """

    def __init__(self, settings: Mapping[str, object], metrics: Sequence[str]) -> None:
        super().__init__()
        self._settings = flatten_settings(settings)
        self._metrics = list(metrics)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the declaration, unless a resumed run has written it already."""
        if trainer.global_step:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                for summary in hparams(self._settings, dict.fromkeys(self._metrics, 0.0)):
                    logger.experiment.file_writer.add_summary(summary)


def flatten_settings(settings: Mapping[str, object], prefix: str = "") -> dict[str, Setting]:
    """Nested plain values as dotted key -> scalar; lists and null as text."""
    flat: dict[str, Setting] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
