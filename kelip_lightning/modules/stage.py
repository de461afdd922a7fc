"""What the LightningModules of both stages do alike: optimizer, schedule, clipping, gradient norm."""

from abc import abstractmethod
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer

from kelip_lightning.distributed.gather import global_ratios
from kelip_lightning.errors import CheckpointError
from kelip_lightning.models.activations import enable_gradient_checkpointing
from kelip_lightning.modules.log_steps import is_log_step, on_host
from kelip_lightning.optim.older_states import regroup_state
from kelip_lightning.optim.optimizers import OptimizerConfig, build_optimizer, parameter_groups
from kelip_lightning.optim.schedules import ScheduleConfig, build_schedule

Ratios = dict[str, tuple[Tensor, Tensor | float]]
"""Name -> what this rank adds to the numerator and to the denominator of a metric of the global batch, scalars."""


class StageModule(pl.LightningModule):
    """A stage with one model, one optimizer and one schedule.

    A batch is a device's whole share of an optimizer step. A module that takes it in `accumulate` chunks does so inside
    its step, with one loss and one backward pass, so nothing is scaled by the number of chunks, by no strategy.
    """

    def __init__(self, optimizer: OptimizerConfig, schedule: ScheduleConfig, accumulate: int = 1) -> None:
        super().__init__()
        self.accumulate = accumulate
        self._optimizer_config = optimizer
        self._schedule_config = schedule

    @abstractmethod
    def compile_model(self) -> None:
        """Let torch compile, in place, what computes the bulk of a step."""

    def prepare(self, *, recompute_blocks: bool, compiled: bool) -> None:
        """Trade time for memory, in the blocks, and start-up for speed, by torch's compiler."""
        if recompute_blocks:
            enable_gradient_checkpointing(self)
        if compiled:
            self.compile_model()

    def upper_bounds(self) -> dict[str, float]:
        """Parameter -> the value that no optimizer step leaves it above; none by default."""
        return {}

    def configure_optimizers(self) -> Any:
        """Optimizer and per-step schedule; the number of steps comes from the configuration alone."""
        optimizer = build_optimizer(self, self._optimizer_config, self.upper_bounds())
        schedule = build_schedule(optimizer, self._schedule_config)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the optimizer's groups as an earlier revision made them.

        Raises:
            CheckpointError: They do not fit the experiment's.
        """
        states = checkpoint.get("optimizer_states")
        if not states:  # DeepSpeed keeps its own
            return
        parameters = [parameter for _, parameter in self.named_parameters()]
        groups = parameter_groups(self, self._optimizer_config, self.upper_bounds())
        schedulers = checkpoint["lr_schedulers"]
        try:
            states[0], schedulers[0] = regroup_state(states[0], schedulers[0], groups, parameters)
        except ValueError as error:
            raise CheckpointError(
                f"{error}; this revision groups parameters otherwise than the one that began the run: go on with that "
                "one, or begin a new run with name=NEW_NAME"
            ) from error

    @property
    def logs_this_step(self) -> bool:
        """Whether the numbers of the step under way are logged; always, without a trainer."""
        return self._trainer is None or is_log_step(self._trainer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the whole gradient before clipping, and the highest learning rate of any group."""
        if not self.logs_this_step:
            return
        # DeepSpeed keeps the gradients, in pieces, and tells their norm after the step.
        if not isinstance(self.trainer.strategy, DeepSpeedStrategy):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))
        self.log_dict(on_host({"train/learning_rate": max(group["lr"] for group in optimizer.param_groups)}))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log DeepSpeed's norm of the whole gradient before clipping."""
        if self.logs_this_step and isinstance(self.trainer.strategy, DeepSpeedStrategy):
            norm = self.trainer.strategy.deepspeed_engine.get_global_grad_norm()
            if norm is not None:
                self.log_dict(on_host({"train/gradient_norm": float(norm)}))

    def log_ratios(self, values: Ratios) -> None:
        """Log training scalars under `train/`: values of this step's global batch, neither a rank's nor running means.

        To be called on every rank, at steps with `logs_this_step`. A mean over a rank's pairs has the denominator 1:
        the ranks' shares of a batch are equal.
        """
        numerators, denominators = zip(*values.values(), strict=True)
        ratios = global_ratios(numerators, denominators)
        self.log_dict(on_host({f"train/{name}": ratio for name, ratio in zip(values, ratios, strict=True)}))
