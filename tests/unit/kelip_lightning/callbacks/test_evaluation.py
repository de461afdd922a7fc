"""The evaluation callback: metrics, loggers, history, and an undisturbed training run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from data_modules.benchmarks.evaluation_sets import EvaluationSets
from kelip_lightning.callbacks.evaluation import EvaluationCallback
from kelip_lightning.callbacks.pictures import CaptionPanelCallback
from kelip_lightning.evaluation.embed import image_encode_function, text_encode_function
from kelip_lightning.evaluation.suite import evaluate_sets


class _ListLogger(DummyLogger):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        if any(key.startswith("eval/") for key in metrics):
            self.lines.append((step, dict(metrics)))


def test_evaluation_callback__history_and_every_logger(fit: Callable[..., Any], sets: EvaluationSets) -> None:
    callback, loggers = EvaluationCallback(sets, every_n_steps=3), [_ListLogger(), _ListLogger()]
    _, module = fit([callback], steps=7, logger=loggers)
    assert [step for step, _ in callback.history] == [0, 3, 6, 7]
    assert loggers[0].lines == loggers[1].lines == callback.history
    module.eval()
    final = evaluate_sets(
        image_encode_function(module.model), text_encode_function(module.model, module.tokenizer), sets
    )
    assert callback.history[-1][1] == final


def test_evaluation_callback__leaves_the_random_stream_and_the_weights_alone(
    fit: Callable[..., Any], sets: EvaluationSets, tmp_path: Path
) -> None:
    _, alone = fit([])
    evaluation = EvaluationCallback(sets, every_n_steps=2)
    panel = CaptionPanelCallback(sets.retrieval[0], every_n_steps=3, evaluation=evaluation)
    _, watched = fit([evaluation, panel], logger=TensorBoardLogger(tmp_path))
    assert watched.random_states == alone.random_states
    for name, parameter in alone.named_parameters():
        assert torch.equal(parameter, watched.get_parameter(name)), name


def test_evaluation_callback__history_travels_with_a_checkpoint(
    fit: Callable[..., Any], sets: EvaluationSets, tmp_path: Path
) -> None:
    first = EvaluationCallback(sets, every_n_steps=2)
    trainer, _ = fit([first], steps=4)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    resumed = EvaluationCallback(sets, every_n_steps=2)
    fit([resumed], steps=6, ckpt_path=tmp_path / "run.ckpt")
    assert [step for step, _ in resumed.history] == [0, 2, 4, 6]
    assert resumed.history[:3] == first.history


def test_embeddings_at__new_ones_for_a_new_step(sets: EvaluationSets) -> None:
    callback = EvaluationCallback(sets, every_n_steps=1)

    class Module(pl.LightningModule):
        model = torch.nn.Linear(1, 1)
        tokenizer = None

    module: Any = Module()
    assert callback.embeddings_at(3, module) is callback.embeddings_at(3, module)
    assert callback.embeddings_at(3, module) is not callback.embeddings_at(4, module)


class _BreakWeightsAfter(pl.Callback):
    """Leaves NaN in the image encoder after some step, as an overflow in an update would."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step == self._step:
            with torch.no_grad():
                next(pl_module.model.parameters())[:] = torch.nan


def test_evaluation_callback__broken_weights_end_the_run_and_are_never_a_metric(
    fit: Callable[..., Any], sets: EvaluationSets
) -> None:
    callback, logger = EvaluationCallback(sets, every_n_steps=3), _ListLogger()
    message = "evaluation at step 6: evaluation set unseen_design: 5 of 5 image embeddings are not finite"
    with pytest.raises(ValueError, match=message):
        fit([_BreakWeightsAfter(5), callback], steps=9, logger=logger)
    assert [step for step, _ in callback.history] == [step for step, _ in logger.lines] == [0, 3]
