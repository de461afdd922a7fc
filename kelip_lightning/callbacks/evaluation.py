"""Evaluation during training: at which steps, and where the metrics are logged."""

import logging
import time
from typing import Any

import lightning.pytorch as pl
import torch

from data_modules.benchmarks.evaluation_sets import EvaluationSets
from kelip_lightning.callbacks.periodic import PeriodicCallback, evaluation_mode
from kelip_lightning.evaluation.embed import Embeddings, image_encode_function, text_encode_function
from kelip_lightning.evaluation.suite import TaskItems, items_of, metrics_of
from kelip_lightning.modules.contrastive import ContrastiveModule

_log = logging.getLogger(__name__)


class EvaluationCallback(PeriodicCallback):
    """Computes every evaluation set at step 0, every n steps and at the end, and logs all metrics.

    The metrics are those of `evaluate_sets`, as in `kelip evaluate`. They are logged to every logger of the Trainer
    under the number of optimizer steps done, and kept in `history`, which is part of a checkpoint.
    """

    def __init__(self, sets: EvaluationSets, every_n_steps: int, before_training: bool = True) -> None:
        super().__init__(every_n_steps, before_training)
        self.history: list[tuple[int, dict[str, float]]] = []
        """(optimizer steps done, metrics), oldest first."""
        self._sets = sets
        self._embeddings: tuple[int, Embeddings] | None = None

    def act(self, trainer: pl.Trainer, pl_module: ContrastiveModule, step: int) -> None:
        """Evaluate and log."""
        start = time.perf_counter()
        metrics = metrics_of(self.embeddings_at(step, pl_module), self._sets)
        self.history.append((step, metrics))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)
            logger.save()
        _log.debug("%d metrics at step %d in %.1f s", len(metrics), step, time.perf_counter() - start)

    def embeddings_at(self, step: int, pl_module: ContrastiveModule) -> Embeddings:
        """The model's embeddings at this step; those of an earlier step are dropped."""
        if self._embeddings is None or self._embeddings[0] != step:
            self._embeddings = step, module_embeddings(pl_module)
        return self._embeddings[1]

    def items(self, pl_module: ContrastiveModule) -> list[TaskItems]:
        """Every item's outcome at the last evaluation; the module must still have the weights of that step."""
        with evaluation_mode(pl_module), torch.no_grad():
            return items_of(self.embeddings_at(self.history[-1][0], pl_module), self._sets)

    def newest(self) -> tuple[int, dict[str, float]] | None:
        """The last entry of the history; `None` before the first, and on other ranks than zero."""
        return self.history[-1] if self.history else None

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": list(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        self.history = [(step, dict(metrics)) for step, metrics in state_dict["history"]]


def module_embeddings(pl_module: ContrastiveModule) -> Embeddings:
    """Embeddings of the module's model with its current weights."""
    model = pl_module.model
    return Embeddings(image_encode_function(model), text_encode_function(model, pl_module.tokenizer))
