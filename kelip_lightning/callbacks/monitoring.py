"""How fast a stage trains, how much of its data it has seen, and what memory it takes."""

import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from kelip_lightning.modules.stage import is_log_step, on_host
from kelip_lightning.runs.timing import phase


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
    """Logs `pairs_per_second` and `data_wait_share` of the last n optimizer steps, under the stage's name.

    Pairs of all ranks count (images, in MAE pre-training). `data_wait_share` is the share of that time, in [0, 1],
    in which rank zero waited for its loader. Both exclude the other callbacks at the start and end of a step
    (evaluation, panels, checkpoints), which come between this callback and `last` in the Trainer's list, and the wait
    for the first batch, in which the workers start. n is the trainer's `log_every_n_steps`.

    `mfu` is the share of the devices' peak, in [0, 1], that the counted operations reach in that time, those of
    tokens and patches that really entered the network (Chowdhery et al. 2022, app. B). `peak_memory_gib` is the
    largest memory so far that rank zero's tensors took on its GPU or, on a CPU, its process. `samples_seen` counts from
    the first step of the stage, `epoch` the passes over the data that these are.

    Args:
        cost: The operations of a step; `None`: there is no `mfu`.
        global_batch_size: Samples of an optimizer step.
        epoch_length: Samples of a pass over the data; `None`: neither `epoch` nor `samples_seen` is logged.
    """

    def __init__(
        self, cost: StepCost | None = None, *, global_batch_size: int = 1, epoch_length: int | None = None
    ) -> None:
        super().__init__()
        self._global_batch_size, self._epoch_length = global_batch_size, epoch_length
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

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the metrics of the window that ends here, at steps that are logged."""
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
            "pairs_per_second": pairs / seconds,
            "data_wait_share": waited / seconds,
            "peak_memory_gib": _peak_memory(trainer.strategy.root_device) / 2**30,
        }
        if self._cost is not None:
            metrics["mfu"] = operations / seconds / (self._cost.peak * trainer.world_size)
        if self._epoch_length is not None:
            # A function of the step alone, as the data are: a resumed run counts on.
            seen = (batch_idx + 1) * self._global_batch_size
            metrics |= {"samples_seen": float(seen), "epoch": seen / self._epoch_length}
        named = {f"{pl_module.stage_name}/{name}": value for name, value in metrics.items()}
        pl_module.log_dict(on_host(named), on_step=True, on_epoch=False)

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
