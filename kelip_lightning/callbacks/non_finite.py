"""Losses and gradients that are not finite: caught before the optimizer step, on all ranks alike."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from data_modules.config_roles import PERFORMANCE
from kelip_lightning.distributed.consensus import StepVote, gather_objects
from kelip_lightning.errors import NonFiniteError

_log = logging.getLogger(__name__)

_NAMED = 20
"""Parameters that a report lists by name."""


class NonFinitePolicy(Enum):
    """stop: end the run; skip: leave the step out and go on."""

    stop = "stop"
    skip = "skip"


@dataclass(kw_only=True, slots=True)
class NonFiniteConfig:
    """What happens when a loss or a gradient is not finite; in either case it never reaches the weights."""

    policy: NonFinitePolicy = field(default=NonFinitePolicy.stop, metadata=PERFORMANCE)
    """stop, or skip: the step takes no update, and training goes on with the next batch."""
    max_skipped: int = field(default=10, metadata=PERFORMANCE)
    """Steps that a stage may skip before it stops, >= 0."""

    def __post_init__(self) -> None:
        if self.max_skipped < 0:
            raise ValueError(f"max_skipped = {self.max_skipped} must not be negative; 0 stops at the first")


class NonFiniteGuard(pl.Callback):
    """Looks at the loss and at every gradient before the optimizer does.

    A report with the sample ids of all ranks goes to `folder`. The vote of each step tells all ranks, so that they
    stop or skip together.

    Args:
        config: What to do.
        folder: For the reports.
        vote: That of each step, which this callback holds; others may have questions in it.
    """

    def __init__(self, config: NonFiniteConfig, folder: Path, vote: StepVote | None = None) -> None:
        super().__init__()
        self._vote = vote or StepVote()
        self.num_skipped = 0
        """Steps skipped in this stage, over all attempts of a resumed run."""
        self._config, self._folder = config, folder
        self._losses: list[Tensor] = []
        self._sample_ids: list[Tensor] = []
        self._own_check: bool | None = None  # DeepSpeed's setting while a step is being dropped

    def state_dict(self) -> dict[str, Any]:
        """How many steps were skipped."""
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.num_skipped = state_dict["num_skipped"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note whose samples the step is made of."""
        self._losses.clear()
        self._sample_ids.clear()
        self._accept_steps(trainer)
        self._sample_ids.append(batch.sample_ids)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Note the loss; it is read at the step's end, so that an accelerator need not be waited for here."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Let the step pass, drop it, or stop.

        Raises:
            NonFiniteError: By policy, or because too many steps were skipped.
        """
        norm = torch.nn.utils.get_total_norm(list(_gradients(trainer, pl_module)))
        finite = torch.isfinite(torch.stack([*self._losses, norm])).all()
        if not self._vote.hold(trainer, ~finite):
            return
        report = self._write_report(trainer, pl_module)
        step = trainer.global_step
        what = f"a loss or gradient of step {step} is not finite; its batch is described in {report}"
        if self._config.policy is NonFinitePolicy.stop:
            raise NonFiniteError(f"{what}. The weights are still those of before that step")
        self.num_skipped += 1
        if self.num_skipped > self._config.max_skipped:
            raise NonFiniteError(
                f"{what}, and non_finite.max_skipped = {self._config.max_skipped} were skipped already"
            )
        if trainer.is_global_zero:
            _log.warning("%s: skipped, number %d of at most %d", what, self.num_skipped, self._config.max_skipped)
        self._drop_step(trainer, pl_module)

    def _write_report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Path:
        own = {
            "rank": trainer.global_rank,
            "losses": [str(loss.item()) for loss in self._losses],
            "sample_ids": [ids.tolist() for ids in self._sample_ids],
        }
        report = {
            "step": trainer.global_step,
            "parameters_with_non_finite_gradient": _non_finite_names(pl_module)[:_NAMED],
            "ranks": gather_objects(trainer, own),
        }
        file = self._folder / f"step={trainer.global_step:07d}.json"
        if trainer.is_global_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(report, indent=1), encoding="utf-8")
        return file

    def _drop_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without gradients an optimizer changes neither weights nor moments; DeepSpeed has a way of its own."""
        sharded = _zero_optimizer(trainer)
        if sharded is None:
            for parameter in pl_module.parameters():
                parameter.grad = None
            return
        # What DeepSpeed does after an overflow in float16: forget the gradients and leave the weights.
        self._own_check = getattr(sharded, "check_grad_overflow", False)
        sharded.overflow, sharded.check_grad_overflow = True, False

    def _accept_steps(self, trainer: pl.Trainer) -> None:
        if self._own_check is not None:
            sharded = _zero_optimizer(trainer)
            sharded.overflow, sharded.check_grad_overflow = False, self._own_check
            self._own_check = None


def _zero_optimizer(trainer: pl.Trainer) -> Any:
    """DeepSpeed's optimizer, which keeps the gradients to itself; none under other strategies."""
    engine = getattr(trainer.strategy, "deepspeed_engine", None)
    optimizer = getattr(engine, "optimizer", None)
    return optimizer if hasattr(optimizer, "averaged_gradients") else None


def _gradients(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Tensor]:
    """The gradients that this rank is about to use."""
    sharded = _zero_optimizer(trainer)
    if sharded is None:
        yield from (parameter.grad for parameter in module.parameters() if parameter.grad is not None)
        return
    for group in sharded.averaged_gradients.values():
        yield from (gradient for gradient in group or () if gradient is not None)


def _non_finite_names(module: pl.LightningModule) -> list[str]:
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
