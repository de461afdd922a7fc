"""The evaluation callback: metrics, loggers, history, intervals, precision, and an undisturbed training run."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from data_modules.benchmarks.config import EvaluationConfig, IntervalConfig
from data_modules.benchmarks.evaluation_sets import EvaluationSets
from kelip_lightning.callbacks import evaluation as module_under_test
from kelip_lightning.callbacks.evaluation import EvaluationCallback, Interval, interval_of, module_encoders
from kelip_lightning.callbacks.pictures import draw_examples
from kelip_lightning.evaluation.suite import Streaming, evaluate_sets


class _ListLogger(DummyLogger):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        if any(key.startswith("eval/") for key in metrics):
            self.lines.append((step, dict(metrics)))


def _every(steps: int) -> EvaluationConfig:
    return EvaluationConfig(every_n_steps=steps)


def test_evaluation_callback__history_and_every_logger(fit: Callable[..., Any], sets: EvaluationSets) -> None:
    callback, loggers = EvaluationCallback(sets, _every(3)), [_ListLogger(), _ListLogger()]
    trainer, module = fit([callback], steps=7, logger=loggers)
    assert [step for step, _ in callback.history] == [0, 3, 6, 7]
    assert loggers[0].lines == loggers[1].lines == callback.history
    module.eval()
    with torch.no_grad():
        final = evaluate_sets(sets, module_encoders(trainer, module), Streaming())
    assert callback.history[-1][1] == final.metrics
    assert [one.task for one in callback.items()] == [one.task for one in final.items]
    assert callback.seconds > 0


def test_evaluation_callback__leaves_the_random_stream_and_the_weights_alone(
    fit: Callable[..., Any], sets: EvaluationSets, tmp_path: Path
) -> None:
    _, alone = fit([])
    evaluation = EvaluationCallback(sets, _every(2), on_evaluation=[draw_examples], num_examples=3)
    _, watched = fit([evaluation], logger=TensorBoardLogger(tmp_path))
    assert watched.random_states == alone.random_states
    for name, parameter in alone.named_parameters():
        assert torch.equal(parameter, watched.get_parameter(name)), name


def test_evaluation_callback__history_travels_with_a_checkpoint(
    fit: Callable[..., Any], sets: EvaluationSets, tmp_path: Path
) -> None:
    first = EvaluationCallback(sets, _every(2))
    trainer, _ = fit([first], steps=4)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    resumed = EvaluationCallback(sets, _every(2))
    fit([resumed], steps=6, ckpt_path=tmp_path / "run.ckpt")
    assert [step for step, _ in resumed.history] == [0, 2, 4, 6]
    assert resumed.history[:3] == first.history


def test_evaluation_callback__each_set_at_its_own_interval(fit: Callable[..., Any], sets: EvaluationSets) -> None:
    sets.captions[0].interval = IntervalConfig(every_n_steps=5)
    sets.classification[0].interval = IntervalConfig(every_n_epochs=1.5)
    callback = EvaluationCallback(sets, _every(2), steps_per_epoch=2.0)
    fit([callback], steps=7)
    found = {step: {name.split("/")[1].removesuffix("_ko").removesuffix("_en") for name in metrics}
             for step, metrics in callback.history}  # fmt: skip
    everything = {"unseen_design", "all_captions", "groups"}
    assert found == {
        0: everything,
        2: {"unseen_design"},
        3: {"groups"},
        4: {"unseen_design"},
        5: {"all_captions"},
        6: {"unseen_design", "groups"},
        7: everything,
    }


def test_evaluation_callback__the_last_step_evaluates_what_was_not_due_there(
    fit: Callable[..., Any], sets: EvaluationSets
) -> None:
    sets.captions[0].interval = IntervalConfig(every_n_steps=100)
    callback = EvaluationCallback(sets, _every(2))
    fit([callback], steps=4)
    assert [step for step, _ in callback.history] == [0, 2, 4]
    assert "eval/all_captions/ko_to_en_R@1" in callback.history[-1][1]
    assert "eval/unseen_design_ko/mean_recall" in callback.history[-1][1]


def test_evaluation_callback__by_minutes(
    fit: Callable[..., Any], sets: EvaluationSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step takes 40 seconds by this clock: 3 x 40 seconds are two minutes."""
    now = [0.0]
    monkeypatch.setattr(module_under_test, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: 0.0))

    def wait() -> None:
        now[0] += 40

    callback = EvaluationCallback(sets, EvaluationConfig(every_n_minutes=2))
    fit([callback], steps=8, in_step=wait)
    assert [step for step, _ in callback.history] == [0, 3, 6, 8]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (EvaluationConfig(), IntervalConfig(every_n_steps=500)),
        (EvaluationConfig(every_n_minutes=30), IntervalConfig(every_n_minutes=30)),
        (EvaluationConfig(every_n_steps=7, every_n_epochs=0.5), IntervalConfig(every_n_steps=7, every_n_epochs=0.5)),
    ],
)
def test_interval_of(config: EvaluationConfig, expected: IntervalConfig) -> None:
    assert interval_of(config) == expected


def test_interval__epochs_need_their_length() -> None:
    with pytest.raises(ValueError, match="every_n_epochs = 1 needs the number of steps"):
        Interval(IntervalConfig(every_n_epochs=1), None)


def test_evaluation_callback__in_the_precision_of_the_trainer(fit: Callable[..., Any], sets: EvaluationSets) -> None:
    seen: list[torch.dtype] = []

    class Probe(EvaluationCallback):
        def act(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
            hook = pl_module.model.image_layer.register_forward_hook(lambda *parts: seen.append(parts[-1].dtype))
            super().act(trainer, pl_module, step)
            hook.remove()

    fit([Probe(sets, _every(9))], steps=1, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16}


class _BreakWeightsAfter(pl.Callback):
    """Leaves NaN in the image encoder after some step, as an overflow in an update would."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step == self._step:
            with torch.no_grad():
                pl_module.model.image_layer.weight[:] = torch.nan


def test_evaluation_callback__broken_weights_end_the_run_and_are_never_a_metric(
    fit: Callable[..., Any], sets: EvaluationSets
) -> None:
    callback, logger = EvaluationCallback(sets, _every(3)), _ListLogger()
    message = "evaluation at step 6: evaluation set unseen_design: 5 of 5 image embeddings are not finite"
    with pytest.raises(ValueError, match=message):
        fit([_BreakWeightsAfter(5), callback], steps=9, logger=logger)
    assert [step for step, _ in callback.history] == [step for step, _ in logger.lines] == [0, 3]
