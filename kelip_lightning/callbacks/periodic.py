"""Base class of the callbacks that evaluate or draw between steps: at which steps, and in which mode."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from data_modules.errors import DataError
from kelip_lightning.callbacks.weight_average import averaged_weights
from kelip_lightning.distributed.consensus import fail_together
from kelip_lightning.distributed.zero import whole_weights
from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.embed import error_context
from kelip_lightning.runs.timing import phase


class PeriodicCallback(pl.Callback):
    """Acts before the first step, every n optimizer steps and at the end, never twice at one step.

    An error on one rank is raised on all. Callbacks run outside the precision plugin's autocast, so the model computes
    in the dtype of its parameters, float32 for mixed precision, unless `act` enters the plugin's context.

    Args:
        every_n_steps: Optimizer steps between two actions; `None`: a subclass decides in `acts_after`.

    Raises:
        ValueError: `every_n_steps` is below one.
    """

    phase_name = "pictures"
    """The phase of the run that `act` is counted as."""
    every_rank = False
    """Whether all ranks act together; `False`: rank zero acts, and the others wait for it."""

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__()
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps = {every_n_steps} must be at least 1")
        self.every_n_steps = every_n_steps
        self.last_step = -1
        """Step of the last action."""

    @abstractmethod
    def act(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        """The callback's work, in eval mode, without gradients."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Act on the untrained model; a resumed run does not act again at its first step."""
        if trainer.global_step == 0:
            self._act(trainer, pl_module)
        self.last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Act when an optimizer step completed a period."""
        if self.acts_after(trainer):
            self._act(trainer, pl_module)

    def acts_after(self, trainer: pl.Trainer) -> bool:
        """Whether the optimizer steps done complete a period; the same on every rank."""
        return self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Act on the final model unless the last step completed a period; not in a run that was stopped early."""
        if trainer.global_step >= trainer.max_steps:
            self._act(trainer, pl_module)

    def _act(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step
        if step == self.last_step:
            return
        self.last_step = step
        failure: Exception | None = None
        with whole_weights(trainer.strategy, pl_module):
            if self.every_rank or trainer.is_global_zero:
                try:
                    with (
                        phase(self.phase_name),
                        error_context(f"evaluation at step {step}"),
                        averaged_weights(trainer, pl_module),
                        evaluation_mode(pl_module),
                        torch.no_grad(),
                    ):
                        self.act(trainer, pl_module, step)
                except (NonFiniteEmbeddingsError, DataError) as error:
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
