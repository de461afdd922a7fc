"""Evaluation during training: which sets at which steps, on all ranks, and where the metrics are logged."""

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Generic, Protocol, TypeVar

import lightning.pytorch as pl

from data_modules.benchmarks.config import EvaluationConfig, IntervalConfig, ProbeConfig
from data_modules.benchmarks.evaluation_sets import EvaluationSet
from data_modules.benchmarks.image_stream import EvaluationTransform, ImageCache
from kelip_lightning.callbacks.periodic import PeriodicCallback
from kelip_lightning.distributed.consensus import StepVote
from kelip_lightning.evaluation.embed import image_encode_function, text_encode_function
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.suite import Evaluation, Projected, Streaming, evaluate_sets
from kelip_lightning.evaluation.tasks import TaskItems
from kelip_lightning.modules.contrastive import ContrastiveModule

_log = logging.getLogger(__name__)

DEFAULT_STEPS = 500
"""Steps between evaluations if no interval is configured."""

OnEvaluation = Callable[[pl.Trainer, int, Evaluation], None]
"""Receives trainer, step and results, on rank zero."""


class _HasInterval(Protocol):
    @property
    def interval(self) -> IntervalConfig: ...


EvaluatedSet = TypeVar("EvaluatedSet", bound=_HasInterval)


class IntervalEvaluation(PeriodicCallback, Generic[EvaluatedSet]):
    """Evaluates at step 0, at each set's interval and at the end, on all ranks, and logs all metrics.

    Metrics are logged to every logger of the Trainer under the number of optimizer steps done, and kept in `history`,
    which is part of a checkpoint.

    Args:
        sets: Built and checked.
        config: The intervals and the batch size.
        num_workers: Loader processes of each rank.
        steps_per_epoch: Optimizer steps of a pass over the training data, for intervals by epochs.
        vote: The vote of each step, in which rank zero's clock decides for all ranks; `None`: this callback's own.
        on_evaluation: Called with every evaluation, on rank zero: panels.
        num_examples: Images of each set whose best texts are computed for `on_evaluation`.
    """

    phase_name = "evaluation"
    every_rank = True

    def __init__(
        self,
        sets: Iterable[EvaluatedSet],
        config: EvaluationConfig | ProbeConfig,
        *,
        num_workers: int = 0,
        steps_per_epoch: float | None = None,
        vote: StepVote | None = None,
        on_evaluation: Sequence[OnEvaluation] = (),
        num_examples: int = 0,
    ) -> None:
        super().__init__()
        self.history: list[tuple[int, dict[str, float]]] = []
        """(optimizer steps done, metrics), oldest first."""
        self.seconds = 0.0
        """Spent on evaluations in this process."""
        self.streaming = Streaming(
            batch_size=config.batch_size,
            num_workers=num_workers,
            num_examples=num_examples if on_evaluation else 0,
            cache=ImageCache(config.cache_mib << 20),
        )
        self._on_evaluation = list(on_evaluation)
        self._sets = list(sets)
        intervals = [one.interval if one.interval.is_given else interval_of(config) for one in self._sets]
        self._intervals = [Interval(one, steps_per_epoch) for one in intervals]
        self._vote, self._questions = vote or StepVote(), range(0)
        self._is_global_zero = False
        self._due: list[EvaluatedSet] = []
        self._last: tuple[int, Evaluation] | None = None
        if any(one.by_time for one in self._intervals):
            self._questions = self._vote.ask(*map(self._asks_for, self._intervals))

    def _asks_for(self, interval: "Interval") -> Callable[[], bool]:
        return lambda: self._is_global_zero and interval.is_time()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the untrained model on all sets."""
        self._is_global_zero = trainer.is_global_zero
        self._due = self._sets
        for interval in self._intervals:
            interval.restart()
        super().on_train_start(trainer, pl_module)

    def acts_after(self, trainer: pl.Trainer) -> bool:
        """Whether some set's interval ends at this step; the same on every rank, which all must ask once a step."""
        timed = self._vote.answers(trainer, self._questions) if self._questions else [False] * len(self._sets)
        self._due = [
            one
            for one, interval, is_time in zip(self._sets, self._intervals, timed, strict=True)
            if is_time or interval.is_step(trainer.global_step)
        ]
        return bool(self._due)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate all sets on the final model, unless the last step did; not in a run that was stopped early."""
        step = trainer.global_step
        if step >= trainer.max_steps and not (self._last and self._last[0] == step and self._due == self._sets):
            self._due, self.last_step = self._sets, -1
        super().on_train_end(trainer, pl_module)

    @abstractmethod
    def evaluate(self, due: Sequence[EvaluatedSet], trainer: pl.Trainer, pl_module: Any) -> Evaluation:
        """The results of the sets that are due, on all ranks; in eval mode, without gradients."""

    def act(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        """Evaluate the sets that are due, and log."""
        start = time.perf_counter()
        evaluation = self.evaluate(self._due, trainer, pl_module)
        self._last = step, evaluation
        for one, interval in zip(self._sets, self._intervals, strict=True):
            if one in self._due:
                interval.restart()
        if self.history and self.history[-1][0] == step:
            self.history.pop()
        self.history.append((step, evaluation.metrics))
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(evaluation.metrics, step)
                logger.save()
            for use in self._on_evaluation:
                use(trainer, step, evaluation)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        _log.debug("%d metrics at step %d in %.1f s", len(evaluation.metrics), step, seconds)

    def items(self) -> list[TaskItems]:
        """Every item's outcome at the last evaluation."""
        return self._last[1].items if self._last else []

    def report(self) -> dict[str, Any]:
        """For report.json: step, metrics and ties of the last evaluation, seconds of all evaluations."""
        step, metrics = self.history[-1]
        ties = self._last[1].tie_differences if self._last else {}
        return {
            "step": step,
            "evaluation_seconds": round(self.seconds, 1),
            "metrics": metrics,
            "tie_rules": {name: dict(values) for name, values in ties.items()},
        }

    def newest(self) -> tuple[int, dict[str, float]] | None:
        """The last entry of the history; `None` before the first."""
        return self.history[-1] if self.history else None

    def was_at(self, step: int) -> bool:
        """Whether some set was evaluated at this step of this process; the same on every rank."""
        return self._last is not None and self._last[0] == step

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": list(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        self.history = [(step, dict(metrics)) for step, metrics in state_dict["history"]]


class EvaluationCallback(IntervalEvaluation[EvaluationSet]):
    """The evaluation of contrastive training: the metrics of `evaluate_sets`, as in `kelip evaluate`.

    They are computed in the trainer's precision.

    Args:
        args: Of `IntervalEvaluation`.
        projected: Of the sets, the one whose embeddings the last evaluation keeps; `None`: none.
        kwargs: Of `IntervalEvaluation`.
    """

    def __init__(self, *args: Any, projected: Projected | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._projected = projected

    def evaluate(self, due: Sequence[EvaluationSet], trainer: pl.Trainer, pl_module: ContrastiveModule) -> Evaluation:
        """Every metric of the sets that are due; after the last step, with the embeddings for the projector."""
        is_last = trainer.global_step >= trainer.max_steps
        streaming = replace(self.streaming, projected=self._projected if is_last else None)
        return evaluate_sets(due, module_encoders(trainer, pl_module), streaming)


class Interval:
    """When one set is evaluated.

    Args:
        config: At least one of its values is given.
        steps_per_epoch: Needed for `every_n_epochs`.

    Raises:
        ValueError: It is missing.
    """

    def __init__(self, config: IntervalConfig, steps_per_epoch: float | None) -> None:
        if config.every_n_epochs is not None and steps_per_epoch is None:
            raise ValueError(f"every_n_epochs = {config.every_n_epochs} needs the number of steps of an epoch")
        self._config, self._steps_per_epoch = config, steps_per_epoch or 1.0
        self._since = time.monotonic()

    @property
    def by_time(self) -> bool:
        """Whether the clock decides, too."""
        return self._config.every_n_minutes is not None

    def restart(self) -> None:
        """Count minutes from now."""
        self._since = time.monotonic()

    def is_time(self) -> bool:
        """Whether the minutes have passed."""
        minutes = self._config.every_n_minutes
        return minutes is not None and time.monotonic() - self._since >= 60 * minutes

    def is_step(self, step: int) -> bool:
        """Whether this optimizer step completes a period of steps or epochs."""
        steps, epochs = self._config.every_n_steps, self._config.every_n_epochs
        if steps is not None and step % steps == 0:
            return True
        if epochs is None:
            return False
        period = epochs * self._steps_per_epoch
        return int(step / period) > int((step - 1) / period)


def interval_of(config: EvaluationConfig | ProbeConfig) -> IntervalConfig:
    """The interval of sets without their own."""
    if not config.is_given:
        return IntervalConfig(every_n_steps=DEFAULT_STEPS)
    return IntervalConfig(**{one.name: getattr(config, one.name) for one in fields(IntervalConfig)})


def module_encoders(trainer: pl.Trainer, pl_module: ContrastiveModule) -> Encoders:
    """The module's model with its current weights, in the trainer's precision."""
    model, precision = pl_module.model, trainer.precision_plugin.forward_context
    return Encoders(
        name="model in training",
        preprocess=EvaluationTransform(model.image_encoder.config.image_size),
        encode_images=image_encode_function(model, precision, l2norm=False),
        encode_texts=text_encode_function(model, pl_module.tokenizer, precision, l2norm=False),
        logit_scale=model.scale().item(),
        device=model.logit_scale.device,
    )
