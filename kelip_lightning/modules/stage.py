"""What the LightningModules of both stages share: optimizer, schedule, gradient norm, logging."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from kelip_lightning.distributed.gather import global_ratios
from kelip_lightning.errors import CheckpointError
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.text_encoder import TextTower
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from kelip_lightning.optim.optimizers import build_optimizer, build_schedule, parameter_groups, regroup_state

Ratios = dict[str, tuple[Tensor, Tensor | float]]
"""Name -> this rank's terms of the numerator and denominator of a metric of the global batch, scalars."""


class StageModule(pl.LightningModule):
    """A stage with one model, one optimizer and one schedule.

    A batch is a device's whole part of an optimizer step. With `accumulate` chunks, `training_step` splits it and
    returns one loss for one backward pass, so no strategy scales by the number of chunks.
    """

    stage_name: ClassVar[str]
    """`mae` or `contrastive`: the first part of the name of each of the stage's training scalars."""

    def __init__(self, optimizer: OptimizerConfig, schedule: ScheduleConfig, accumulate: int = 1) -> None:
        super().__init__()
        self.accumulate = accumulate
        self._optimizer_config = optimizer
        self._schedule_config = schedule
        self._gradient_norm: Tensor | None = None

    @abstractmethod
    def compile_model(self) -> None:
        """Compile the networks in place."""

    def prepare(self, *, recompute_blocks: bool, compiled: bool) -> None:
        """Enable gradient checkpointing of transformer blocks, and torch.compile."""
        if recompute_blocks:
            enable_gradient_checkpointing(self)
        if compiled:
            self.compile_model()

    def upper_bounds(self) -> dict[str, float]:
        """Parameter -> its largest value after an optimizer step; empty by default."""
        return {}

    def configure_optimizers(self) -> Any:
        """Optimizer and per-step schedule, from the configuration alone."""
        optimizer = build_optimizer(self, self._optimizer_config, self.upper_bounds())
        schedule = build_schedule(optimizer, self._schedule_config)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Convert the optimizer state of an earlier revision to the current parameter groups.

        Raises:
            CheckpointError: The groups do not fit the experiment's.
        """
        states = checkpoint.get("optimizer_states")
        if not states:  # DeepSpeed has checkpoints of its own
            return
        parameters = [parameter for _, parameter in self.named_parameters()]
        groups = parameter_groups(self, self._optimizer_config, self.upper_bounds())
        schedulers = checkpoint["lr_schedulers"]
        try:
            states[0], schedulers[0] = regroup_state(states[0], schedulers[0], groups, parameters)
        except ValueError as error:
            raise CheckpointError(
                f"{error}; this revision groups parameters differently from the one that started the run: resume with "
                "that one, or start a new run with name=NEW_NAME"
            ) from error

    @property
    def logs_this_step(self) -> bool:
        """Whether the current step is logged; always True without a trainer."""
        return self._trainer is None or is_log_step(self._trainer)

    def on_after_backward(self) -> None:
        """Forget the last step's norm."""
        self._gradient_norm = None

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient of this step before clipping, scalar; computed once a step.

        Not under DeepSpeed, which shards the gradients and gives their norm after the step.
        """
        if self._gradient_norm is None:
            self._gradient_norm = torch.nn.utils.get_total_norm(_gradients(self))
        return self._gradient_norm

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Scale the gradients down to `optimizer.gradient_clip_norm`; DeepSpeed does it itself.

        Lightning refuses to clip for a fused AdamW, which could unscale float16 gradients in its step; here are none.
        """
        if gradient_clip_val is None or isinstance(self.trainer.strategy, DeepSpeedStrategy):
            return
        norm, trained = self.gradient_norm(), [one for one in self.parameters() if one.grad is not None]
        # A GPU would be waited for.
        if norm.device.type != "cpu" or norm > gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(trained, gradient_clip_val, norm)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the gradient, and the highest learning rate of any group."""
        if not self.logs_this_step:
            return
        if not isinstance(self.trainer.strategy, DeepSpeedStrategy):
            self.log(f"{self.stage_name}/gradient_norm", self.gradient_norm())
        rate = max(group["lr"] for group in optimizer.param_groups)
        self.log_dict(on_host({f"{self.stage_name}/learning_rate": rate}))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log DeepSpeed's norm of the whole gradient before clipping."""
        if self.logs_this_step and isinstance(self.trainer.strategy, DeepSpeedStrategy):
            norm = self.trainer.strategy.deepspeed_engine.get_global_grad_norm()
            if norm is not None:
                self.log_dict(on_host({f"{self.stage_name}/gradient_norm": float(norm)}))

    def log_ratios(self, values: Ratios) -> None:
        """Log training scalars of this step's global batch under `mae/` or `contrastive/`.

        Call it on every rank, if `logs_this_step`. A mean over a rank's samples has the denominator 1, since ranks have
        equal batch sizes.
        """
        numerators, denominators = zip(*values.values(), strict=True)
        ratios = global_ratios(numerators, denominators)
        named = {f"{self.stage_name}/{name}": ratio for name, ratio in zip(values, ratios, strict=True)}
        self.log_dict(on_host(named))


def _gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def is_log_step(trainer: Any) -> bool:
    """Whether Lightning logs the current step, or it is the last one, whose metrics a stage returns."""
    # Not global_step, which includes the current step in the hooks at its end.
    step = int(trainer.fit_loop.epoch_loop._batches_that_stepped) + 1
    period = int(trainer.log_every_n_steps)
    return step == int(trainer.max_steps) or (period > 0 and step % period == 0)


def on_host(numbers: Mapping[str, float]) -> dict[str, Tensor]:
    """Numbers as float32 tensors on the host; Lightning copies plain numbers to the device, which synchronises."""
    return {name: torch.tensor(number, dtype=torch.float32, device="cpu") for name, number in numbers.items()}


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute the transformer blocks of every tower in the backward pass; gradients stay the same."""
    for part in model.modules():
        if isinstance(part, ImageEncoder):
            part.gradient_checkpointing = True
        elif isinstance(part, TextTower):
            part.enable_gradient_checkpointing()
