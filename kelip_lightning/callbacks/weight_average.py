"""The exponential moving average of the weights: Lightning's, and a look through it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverageCallback(WeightAveraging):
    """average <- decay * average + (1 - decay) * weights after every optimizer step, from the first step's weights on.

    Stands before the callbacks that evaluate or export: at the end of training it puts the average into the model.

    Args:
        decay: Share of the old average that is kept, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        # Buffers are copied: they hold positions, in whole numbers, which an average would truncate.
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @contextmanager
    def in_place(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The module has the averaged weights inside, and its own again afterwards."""
        self._swap_models(pl_module)
        try:
            yield
        finally:
            self._swap_models(pl_module)


@contextmanager
def averaged_weights(trainer: Any, pl_module: pl.LightningModule) -> Iterator[None]:
    """The module as it would be handed on: with averaged weights if the trainer averages them."""
    # Trainer sets `callbacks` where type checkers do not see it, hence Any.
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAverageCallback):
            with callback.in_place(pl_module):
                yield
            return
    yield
