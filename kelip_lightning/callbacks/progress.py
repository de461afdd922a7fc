"""What a run says while it trains: lines for log files, and a bar on a terminal."""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn

from data_modules.languages import LANGUAGES
from kelip_lightning.evaluation.metric_names import at_k, split_name
from kelip_lightning.evaluation.suite import Evaluation
from kelip_lightning.modules.stage import is_log_step
from kelip_lightning.runs.log_file import PROGRESS
from kelip_lightning.runs.timing import current_phase

_log = logging.getLogger(PROGRESS)

_BAR = {"loss": "{:.3f}", "accuracy_ko": "{:.0%}", "accuracy_en": "{:.0%}", "pairs_per_second": "{:.0f}"}
"""Training scalar -> its format on the bar."""
_BAR_NAMES = {"accuracy_ko": "ko", "accuracy_en": "en", "pairs_per_second": "pairs/s"}
_LINE = (
    "loss",
    "accuracy_ko",
    "accuracy_en",
    "learning_rate",
    "pairs_per_second",
    "data_wait_share",
    "peak_memory_gib",
)
"""The training scalars of a line; all are numbers on the host, for which a device need not be waited for."""
_DOING = {
    "evaluation": "evaluating",
    "pictures": "drawing",
    "checkpoints": "writing a checkpoint",
    "export": "writing the weights",
}
"""Phase of a run -> what a line says of it."""
_SHOWN = {
    at_k(f"eval/x/{task}", 1).rpartition("/")[2]: name
    for task, name in {
        "image_to_text": "R@1",
        "ko_to_en": "caption R@1",
        "en_to_ko": "caption R@1",
        "zero_shot": "top-1",
        "choice": "top-1",
    }.items()
}
"""The metrics of the line of an evaluation, and their names there."""
MAX_SETS = 8
"""Evaluation sets in the line of an evaluation."""


class Kind(NamedTuple):
    """How a stage is spoken of."""

    title: str
    """On the bar."""
    samples: str
    """What a sample is, in the plural."""


KINDS = {"mae": Kind("MAE pre-training", "images"), "contrastive": Kind("contrastive", "pairs")}
"""By the name of the stage."""


class ProgressLog(pl.Callback):
    """Writes a line at least every `interval_seconds`, at every evaluation and at both ends of the stage; rank zero.

    The lines go to the logger `PROGRESS`. Loss, accuracies, learning rate, speed and memory are those of the last
    step that was logged (`trainer.log_every_n_steps`); an accuracy without a pair of the language is `–`. A thread
    writes the line while a step or an evaluation takes longer than the interval.

    Args:
        stage: `mae` or `contrastive`.
        global_batch_size: Samples of an optimizer step.
        interval_seconds: Longest time between two lines, > 0.
        clock: Seconds from any moment on.
    """

    def __init__(
        self,
        stage: str,
        *,
        global_batch_size: int,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._stage, self._samples = stage, KINDS[stage].samples
        self._global_batch_size, self._interval, self._clock = global_batch_size, interval_seconds, clock
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._phase: Callable[[], str | None] = lambda: None
        self._values: dict[str, float] = {}
        self._step, self._total, self._first_step = 0, 0, 0
        self._first_step_began: float | None = None
        self._last_at, self._last_step = 0.0, -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the stage starts; from now on, lines are due."""
        if not trainer.is_global_zero:
            return
        self._step = self._first_step = trainer.global_step
        self._total, self._last_at, self._phase = trainer.max_steps, self._clock(), current_phase()
        begins = f"continues after step {self._step:,}" if self._step else "begins"
        _log.info(
            "%s %s: %s steps of %s %s", self._stage, begins, f"{self._total:,}", f"{self._global_batch_size:,}",
            self._samples,
        )  # fmt: skip
        self._ended.clear()
        threading.Thread(target=self._watch, name="progress", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.01, self._last_at + self._interval - self._clock())):
            self.write_if_due()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The time left is estimated from the first step of this process on."""
        if self._first_step_began is None:
            self._first_step_began = self._clock()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count the step, and keep the scalars of one that is logged."""
        if not trainer.is_global_zero:
            return
        if is_log_step(trainer):
            logged = trainer.callback_metrics
            keys = {name: f"{self._stage}/{name}" for name in _LINE}
            self._values = {name: float(logged[key]) for name, key in keys.items() if key in logged}
        self._step = trainer.global_step
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write a line if the last one is `interval_seconds` old."""
        with self._lock:
            if not self._ended.is_set() and self._clock() - self._last_at >= self._interval:
                self._write()

    def on_evaluation(self, trainer: pl.Trainer, step: int, evaluation: Evaluation) -> None:
        """Write the line of this step, and the main metrics of both languages in one line."""
        with self._lock:
            if step and step != self._last_step:
                self._write()
            _log.info("%s step %s/%s  %s", self._stage, f"{step:,}", f"{self._total:,}", in_short(evaluation.metrics))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line of the last step."""
        with self._lock:
            if trainer.is_global_zero and self._last_step != self._step:
                self._write()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write no more lines."""
        self._ended.set()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write no more lines."""
        self._ended.set()

    def _write(self) -> None:
        self._last_at, self._last_step = self._clock(), self._step
        doing = _DOING.get(self._phase() or "")
        parts = [
            f"{self._stage} step {self._step:,}/{self._total:,} ({self._step / self._total:.0%})",
            f"{self._step * self._global_batch_size:,} {self._samples}",
            *_described(self._values, self._stage, self._samples),
            f"left {_duration(self._seconds_left())}",
        ]
        _log.info("%s", "  ".join([*parts, doing] if doing else parts))

    def _seconds_left(self) -> float | None:
        """From the mean time of the steps of this process, all that happens between them included."""
        done = self._step - self._first_step
        if self._first_step_began is None or done <= 0:
            return None
        return (self._clock() - self._first_step_began) / done * (self._total - self._step)


def _described(values: Mapping[str, float], stage: str, samples: str) -> list[str]:
    """The training scalars of a line."""
    if not values:
        return ["no step logged yet"]

    def show(name: str, form: str) -> str:
        value = values.get(name, math.nan)
        return form.format(value) if math.isfinite(value) else "–"

    parts = [f"loss {show('loss', '{:.4f}')}"]
    if stage == "contrastive":
        parts += [f"accuracy ko {show('accuracy_ko', '{:.1%}')} en {show('accuracy_en', '{:.1%}')}"]
    return [
        *parts,
        f"lr {show('learning_rate', '{:.2e}')}",
        f"{show('pairs_per_second', '{:,.0f}')} {samples}/s",
        f"data wait {show('data_wait_share', '{:.0%}')}",
        f"memory {show('peak_memory_gib', '{:.1f}')} GiB",
    ]


def in_short(metrics: Mapping[str, float]) -> str:
    """R@1 and top-1 of each evaluation set, Korean/English, in percent; at most `MAX_SETS` sets.

    Of caption sets, Korean is the language of the query.
    """
    sets: dict[tuple[str, str], dict[str, float]] = {}
    for key, value in metrics.items():
        if key.startswith("eval/") and (label := _SHOWN.get(key.rpartition("/")[2])):
            name, language, _ = split_name(key)
            sets.setdefault((name, label), {})[language or ""] = value
    shown = [f"{name} {label} {_both(values)}" for (name, label), values in sets.items()]
    if len(shown) > MAX_SETS:
        shown[MAX_SETS:] = [f"and {len(shown) - MAX_SETS} more sets"]
    return f"evaluation, ko/en in %: {', '.join(shown)}" if shown else f"evaluation: {len(metrics)} metrics"


def _both(values: Mapping[str, float]) -> str:
    if "" in values:
        return f"{100 * values['']:.1f}"
    return "/".join(f"{100 * values[language]:.1f}" if language in values else "–" for language in LANGUAGES)


def _duration(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class PairProgressBar(RichProgressBar):
    """Counts optimizer steps out of `max_steps`, because a run is a single Lightning epoch.

    Args:
        title: Description of the bar, such as "MAE pre-training".
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        """Stage, bar, steps, time left (elapsed, at the end); the metrics follow. Fits 80 characters."""
        remaining = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        return [TextColumn("[bold]{task.description}"), BarColumn(bar_width=8), MofNCompleteColumn(), remaining]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at its step in a resumed run."""
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is None:
            self.train_progress_bar_id = self.progress.add_task(
                self._title, total=trainer.max_steps, completed=trainer.global_step
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Advance the bar."""
        self.on_train_epoch_start(trainer, pl_module)
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, completed=trainer.global_step)
            self._update_metrics(trainer, pl_module)
            self.refresh()

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, int | str | float | dict[str, float]]:
        """The main metrics of the last logged step, formatted."""
        logged, stage = trainer.callback_metrics, pl_module.stage_name
        return {
            _BAR_NAMES.get(name, name): form.format(logged[f"{stage}/{name}"].item())
            for name, form in _BAR.items()
            if f"{stage}/{name}" in logged
        }


def has_progress_bar(callbacks: Iterable[pl.Callback]) -> bool:
    """Whether one of the callbacks draws on the terminal."""
    return any(isinstance(one, RichProgressBar) for one in callbacks)


def bar_on_terminal(stage: str) -> Sequence[pl.Callback]:
    """The bar of a stage where stdout is a terminal; elsewhere its control characters would fill a file."""
    return [PairProgressBar(KINDS[stage].title)] if sys.stdout.isatty() else []
