"""A loss or gradient that is not finite never reaches the weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from kelip_lightning.callbacks.config import NonFiniteConfig, NonFinitePolicy
from kelip_lightning.callbacks.non_finite import NonFiniteGuard
from kelip_lightning.errors import NonFiniteError

Fit = Callable[..., tuple[pl.Trainer, Any]]


class Poison(pl.Callback):
    """Puts NaN into one gradient at some steps, the loss being as fine as ever; looks at the weights after each."""

    def __init__(self, *steps: int) -> None:
        self._steps = steps
        self.weights: list[torch.Tensor] = []

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step in self._steps:
            pl_module.model.image_layer.weight.grad[0, 0] = float("nan")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.weights.append(pl_module.model.logit_scale.detach().clone())


def test_stop__before_the_optimizer_step(fit: Fit, tmp_path: Path) -> None:
    poison = Poison(3)
    with pytest.raises(NonFiniteError, match="a loss or gradient of step 3 is not finite"):
        fit([poison, NonFiniteGuard(NonFiniteConfig(), tmp_path / "reports")])
    assert len(poison.weights) == 3
    report = json.loads((tmp_path / "reports" / "step=0000003.json").read_text(encoding="utf-8"))
    assert report["parameters_with_non_finite_gradient"] == ["model.image_layer.weight"]
    assert report["ranks"][0]["sample_ids"] == [[0, 1, 2, 3]]


def test_skip__keeps_the_weights_and_continues(fit: Fit, tmp_path: Path) -> None:
    poison = Poison(3)
    guard = NonFiniteGuard(NonFiniteConfig(policy=NonFinitePolicy.skip), tmp_path)
    trainer, _ = fit([poison, guard])
    assert trainer.global_step == 7
    assert guard.num_skipped == 1
    assert torch.equal(poison.weights[3], poison.weights[2])
    assert not torch.equal(poison.weights[4], poison.weights[3])
    assert len(json.loads((tmp_path / "step=0000003.json").read_text())["ranks"][0]["sample_ids"]) == 1


def test_skip__not_for_ever(fit: Fit, tmp_path: Path) -> None:
    guard = NonFiniteGuard(NonFiniteConfig(policy=NonFinitePolicy.skip, max_skipped=2), tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 4 .*max_skipped = 2 were skipped already"):
        fit([Poison(1, 2, 4), guard])
    again = NonFiniteGuard(NonFiniteConfig(), tmp_path)
    again.load_state_dict(guard.state_dict())
    assert again.num_skipped == 3
