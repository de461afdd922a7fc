"""What the LightningModules of both stages do alike: optimizer, schedule, clipping, gradient norm."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from kelip_lightning.optim.optimizers import OptimizerConfig, build_optimizer
from kelip_lightning.optim.schedules import ScheduleConfig, build_schedule


class StageModule(pl.LightningModule):
    """A stage with one model, one optimizer and one schedule."""

    def __init__(self, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
        super().__init__()
        self._optimizer_config = optimizer
        self._schedule_config = schedule

    def configure_optimizers(self) -> Any:
        """Optimizer and per-step schedule; the number of steps comes from the configuration alone."""
        optimizer = build_optimizer(self, self._optimizer_config)
        schedule = build_schedule(optimizer, self._schedule_config)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the whole gradient before clipping, and the learning rate."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def log_values(self, values: dict[str, Tensor]) -> None:
        """Log training scalars under `train/`, values of this step, not running means."""
        self.log_dict({f"train/{name}": value for name, value in values.items()})
