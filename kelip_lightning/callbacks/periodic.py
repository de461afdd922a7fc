"""What the callbacks that look at the model between steps have in common: when, and in which mode."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from kelip_lightning.callbacks.weight_average import averaged_weights
from kelip_lightning.distributed.consensus import fail_together
from kelip_lightning.distributed.zero import whole_weights
from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.embed import error_context


class PeriodicCallback(pl.Callback):
    """Acts before the first step, every n optimizer steps and at the end, never twice at one step.

    Steps are optimizer steps (`trainer.global_step`). Only
    rank zero acts: the other ranks wait in a collective, which must therefore not time out earlier,
    and end with it where embeddings are not finite. Callbacks run outside the precision plugin's
    autocast, so the model computes in the dtype of its parameters, float32 for mixed precision.
    """

    def __init__(self, every_n_steps: int, before_training: bool = True) -> None:
        """Sets the period.

        Args:
            every_n_steps: Optimizer steps between two actions.
            before_training: Whether to act at step 0 too, on the untrained model.

        Raises:
            ValueError: If `every_n_steps` is below one.
        """
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps = {every_n_steps} must be at least 1")
        self.every_n_steps = every_n_steps
        self.before_training = before_training
        self._last_step = -1

    @abstractmethod
    def act(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        """Does the callback's work: rank zero, model in eval mode, no gradients."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Acts on the untrained model; a resumed run starts at its step and does not act again there."""
        if self.before_training and trainer.global_step == 0:
            self._act(trainer, pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Acts when an optimizer step completed a period."""
        if self.acts_after(trainer.global_step):
            self._act(trainer, pl_module)

    def acts_after(self, step: int) -> bool:
        """Whether so many optimizer steps complete a period; known to every rank."""
        return step % self.every_n_steps == 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Acts on the final model unless the last step completed a period.

        A run that a signal stopped early has no final model, and whoever stopped it does not want to wait.
        """
        if trainer.global_step >= trainer.max_steps:
            self._act(trainer, pl_module)

    def _act(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        failure: NonFiniteEmbeddingsError | None = None
        with whole_weights(trainer.strategy, pl_module):
            if trainer.is_global_zero:
                try:
                    with (
                        error_context(f"evaluation at step {step}"),
                        averaged_weights(trainer, pl_module),
                        evaluation_mode(pl_module),
                        torch.no_grad(),
                    ):
                        self.act(trainer, pl_module, step)
                except NonFiniteEmbeddingsError as error:
                    failure = error
        fail_together(trainer, failure)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode inside; afterwards each is back in its own mode.

    Not `module.train()` on the way out: parts that were in eval mode before stay there.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    # Compiled for the shapes of training: others would be compiled anew, for minutes.
    compiled = any(part._compiled_call_impl is not None for part in modes)
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def log_image(trainer: pl.Trainer, tag: str, image: np.ndarray, step: int) -> None:
    """Writes a uint8 image (H, W, 3) to every TensorBoard logger; other loggers take no images."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, step, dataformats="HWC")
            logger.experiment.flush()
