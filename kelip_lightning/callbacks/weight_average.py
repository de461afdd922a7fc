"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class WeightAverageCallback(WeightAveraging):
    """average <- decay * average + (1 - decay) * weights after every optimizer step, from the first step's weights on.

    Must come before the callbacks that evaluate or export: at the end of training it copies the average into the model.

    Args:
        decay: Weight of the old average, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the average before a checkpoint is loaded into it."""
        if stage == "fit":
            self._average_model = _MovingAverage(pl_module, self._decay)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the module's device, which is set after `setup`."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    @contextmanager
    def in_place(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The module has the averaged weights inside the block."""
        self._swap_models(pl_module)
        try:
            yield
        finally:
            self._swap_models(pl_module)


class _MovingAverage(AveragedModel):
    """`AveragedModel` without its synchronisation with the device in every update: `n_averaged` stays on the CPU."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Copy the first weights, average later ones; copy the buffers, as an average would truncate integers."""
        average: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        if self.n_averaged == 0:
            torch._foreach_copy_(average, weights)
        else:
            torch._foreach_lerp_(average, weights, 1 - self._decay)
        for own, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(theirs)
        self.n_averaged += 1


@contextmanager
def averaged_weights(trainer: Any, pl_module: pl.LightningModule) -> Iterator[None]:
    """The module as it is exported: with averaged weights inside the block if the Trainer averages them."""
    # Trainer sets `callbacks` where type checkers do not see it, hence Any.
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAverageCallback):
            with callback.in_place(pl_module):
                yield
            return
    yield
