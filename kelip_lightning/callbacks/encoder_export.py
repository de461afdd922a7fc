"""Writes what a stage hands on, when it has ended properly."""

from collections.abc import Callable

import lightning.pytorch as pl

from kelip_lightning.distributed.zero import whole_weights


class ExportCallback(pl.Callback):
    """Calls `export` once on rank zero after the last optimizer step; an interrupted stage exports nothing.

    Args:
        export: Writes the hand-over folder from the module's weights.
    """

    def __init__(self, export: Callable[[], None]) -> None:
        super().__init__()
        self._export = export

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export if every step was taken."""
        if trainer.global_step < trainer.max_steps:
            return
        with whole_weights(trainer.strategy, pl_module):
            if trainer.is_global_zero:
                self._export()
