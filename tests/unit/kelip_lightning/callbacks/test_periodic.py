"""At which steps periodic callbacks act, and that training does not notice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from kelip_lightning.callbacks.periodic import PeriodicCallback, evaluation_mode


class _Recorder(PeriodicCallback):
    def __init__(self, every_n_steps: int) -> None:
        super().__init__(every_n_steps)
        self.steps: list[int] = []
        self.modes: list[bool] = []
        self.gradients: list[bool] = []

    def act(self, trainer: Any, pl_module: Any, step: int) -> None:
        self.steps.append(step)
        self.modes.append(pl_module.model.dropout.training)
        self.gradients.append(torch.is_grad_enabled())


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(7, 3, [0, 3, 6, 7]), (6, 3, [0, 3, 6]), (2, 100, [0, 2]), (3, 1, [0, 1, 2, 3])],
)
def test_periodic_callback__steps(fit: Callable[..., Any], steps: int, every: int, expected: list[int]) -> None:
    recorder = _Recorder(every)
    fit([recorder], steps=steps)
    assert recorder.steps == expected


def test_periodic_callback__eval_mode_without_gradients_and_back(fit: Callable[..., Any]) -> None:
    recorder = _Recorder(2)
    _, module = fit([recorder], steps=4)
    assert recorder.modes == [False, False, False]
    assert recorder.gradients == [False, False, False]
    # Dropout back in train mode, the frozen part still in eval mode, at every step.
    assert module.train_modes == [(True, False)] * 4


def test_periodic_callback__does_not_act_again_where_a_resumed_run_starts(
    fit: Callable[..., Any], tmp_path: Path
) -> None:
    trainer, _ = fit([_Recorder(2)], steps=4)
    checkpoint = tmp_path / "at_step_4.ckpt"
    trainer.save_checkpoint(checkpoint)
    resumed = _Recorder(2)
    fit([resumed], steps=7, ckpt_path=checkpoint)
    assert resumed.steps == [6, 7]


class _StopAtTwo(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 2


def test_periodic_callback__does_not_act_at_the_end_of_a_run_stopped_early(fit: Callable[..., Any]) -> None:
    recorder = _Recorder(5)
    trainer, _ = fit([recorder, _StopAtTwo()], steps=7)
    assert trainer.global_step == 2
    assert recorder.steps == [0]


def test_periodic_callback__rejects_a_period_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _Recorder(0)


def test_evaluation_mode__restores_after_an_error() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    inside: list[bool] = []

    def fail() -> None:
        with evaluation_mode(module):
            inside.extend(part.training for part in module.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert inside == [False, False, False]
    assert [part.training for part in module.modules()] == [True, True, False]
