"""Base class of the callbacks that evaluate or draw between steps: at which steps, and in which mode."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from kelip_lightning.callbacks.weight_average import averaged_weights
from kelip_lightning.distributed.consensus import fail_together
from kelip_lightning.distributed.zero import whole_weights
from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.embed import error_context


class PeriodicCallback(pl.Callback):
    """Acts before the first step, every n optimizer steps and at the end, never twice at one step.

    Only rank zero acts; the other ranks wait in a collective with a longer timeout, and raise with it if
    embeddings are not finite. Callbacks run outside the precision plugin's autocast, so the model computes in the dtype
    of its parameters, float32 for mixed precision.

    Args:
        every_n_steps: Optimizer steps between two actions.
        before_training: Whether to act at step 0 too, on the untrained model.

    Raises:
        ValueError: `every_n_steps` is below one.
    """

    def __init__(self, every_n_steps: int, before_training: bool = True) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps = {every_n_steps} must be at least 1")
        self.every_n_steps = every_n_steps
        self.before_training = before_training
        self._last_step = -1

    @abstractmethod
    def act(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        """The callback's work, on rank zero, in eval mode, without gradients."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Act on the untrained model; a resumed run does not act again at its first step."""
        if self.before_training and trainer.global_step == 0:
            self._act(trainer, pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Act when an optimizer step completed a period."""
        if self.acts_after(trainer.global_step):
            self._act(trainer, pl_module)

    def acts_after(self, step: int) -> bool:
        """Whether this number of optimizer steps completes a period; the same on every rank."""
        return step % self.every_n_steps == 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Act on the final model unless the last step completed a period; not in a run that was stopped early."""
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
    """Every submodule in eval mode inside the block; afterwards each is back in its own mode, which may be eval."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    # The compiled code is for the shapes of training; compiling for others takes minutes.
    compiled = any(part._compiled_call_impl is not None for part in modes)
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for part, training in modes.items():
            part.training = training
