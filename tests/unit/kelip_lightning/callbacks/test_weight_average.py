"""The moving average against the formula, and who sees it."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kelip_lightning.callbacks.periodic import PeriodicCallback
from kelip_lightning.callbacks.weight_average import WeightAverageCallback

DECAY = 0.8


class WeightRecorder(PeriodicCallback):
    """The weights in the steps themselves, and those that an evaluation sees."""

    def __init__(self) -> None:
        super().__init__(every_n_steps=1, before_training=False)
        self.trained: list[Tensor] = []
        self.seen: list[Tensor] = []

    def act(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        self.seen.append(pl_module.model.logit_scale.detach().clone())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *arguments: Any) -> None:
        self.trained.append(pl_module.model.logit_scale.detach().clone())
        super().on_train_batch_end(trainer, pl_module, *arguments)
        assert torch.equal(pl_module.model.logit_scale, self.trained[-1]), "training goes on with its own"


def test_average__is_what_evaluations_see_and_what_training_leaves(fit: Callable[..., tuple[pl.Trainer, Any]]) -> None:
    recorder = WeightRecorder()
    _, module = fit([WeightAverageCallback(DECAY), recorder])
    expected = recorder.trained[0]
    for trained, seen in zip(recorder.trained, recorder.seen, strict=True):
        if trained is not recorder.trained[0]:
            expected = DECAY * expected + (1 - DECAY) * trained
        torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(module.model.logit_scale.detach(), expected)
    assert (recorder.trained[-1] - expected).abs().max() > 1e-3, "the average must be another than the last weights"
