"""Losses and gradients that are not finite: detected before the optimizer step, on all ranks at once."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kelip_lightning.callbacks.config import NonFiniteConfig, NonFinitePolicy
from kelip_lightning.distributed.consensus import StepVote, gather_objects
from kelip_lightning.errors import NonFiniteError

_log = logging.getLogger(__name__)

_NAMED = 20
"""Parameters that a report lists by name."""


class NonFiniteGuard(pl.Callback):
    """Checks the loss and every gradient before the optimizer step; all ranks stop, or skip the step, together.

    A report with the sample ids of all ranks is written to `folder`.

    Args:
        config: What to do.
        folder: For the reports.
        vote: The vote of each step, which this callback holds; other callbacks may add flags to it.
    """

    def __init__(self, config: NonFiniteConfig, folder: Path, vote: StepVote | None = None) -> None:
        super().__init__()
        self._vote = vote or StepVote()
        self.num_skipped = 0
        """Steps skipped in this stage, over all attempts of a resumed run."""
        self._config, self._folder = config, folder
        self._losses: list[Tensor] = []
        self._sample_ids = torch.empty(0, dtype=torch.int64)
        self._own_check: bool | None = None  # DeepSpeed's setting while a step is being dropped

    def state_dict(self) -> dict[str, Any]:
        """The number of skipped steps."""
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count."""
        self.num_skipped = state_dict["num_skipped"]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Record the sample ids of the step."""
        self._losses.clear()
        self._sample_ids = batch.sample_ids
        self._accept_steps(trainer)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Record the loss, without waiting for the device here."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Let the step pass, skip it, or stop.

        Raises:
            NonFiniteError: By policy, or because too many steps were skipped.
        """
        sharded = _zero_optimizer(trainer)
        norm = pl_module.gradient_norm() if sharded is None else torch.nn.utils.get_total_norm(list(_own(sharded)))
        finite = torch.isfinite(torch.stack([*self._losses, norm])).all()
        if not self._vote.hold(trainer, ~finite):
            return
        report = self._write_report(trainer, pl_module)
        step = trainer.global_step
        what = f"a loss or gradient of step {step} is not finite; its batch is described in {report}"
        if self._config.policy is NonFinitePolicy.stop:
            raise NonFiniteError(f"{what}. The step has not changed the weights")
        self.num_skipped += 1
        if self.num_skipped > self._config.max_skipped:
            raise NonFiniteError(
                f"{what}, and non_finite.max_skipped = {self._config.max_skipped} were skipped already"
            )
        if trainer.is_global_zero:
            _log.warning("%s: skipped, number %d of at most %d", what, self.num_skipped, self._config.max_skipped)
        self._drop_step(trainer, pl_module)

    def _write_report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Path:
        gradients = ((name, parameter.grad) for name, parameter in pl_module.named_parameters())
        names = [name for name, one in gradients if one is not None and not bool(torch.isfinite(one).all())]
        own = {
            "rank": trainer.global_rank,
            "losses": [str(loss.item()) for loss in self._losses],
            "sample_ids": [self._sample_ids.tolist()],
        }
        report = {
            "step": trainer.global_step,
            "parameters_with_non_finite_gradient": names[:_NAMED],
            "ranks": gather_objects(trainer, own),
        }
        file = self._folder / f"step={trainer.global_step:07d}.json"
        if trainer.is_global_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(report, indent=1), encoding="utf-8")
        return file

    def _drop_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without gradients an optimizer changes neither weights nor moments; DeepSpeed needs other means."""
        sharded = _zero_optimizer(trainer)
        if sharded is None:
            for parameter in pl_module.parameters():
                parameter.grad = None
            return
        # As DeepSpeed does after an overflow in float16: discard the gradients and keep the weights.
        self._own_check = getattr(sharded, "check_grad_overflow", False)
        sharded.overflow, sharded.check_grad_overflow = True, False

    def _accept_steps(self, trainer: pl.Trainer) -> None:
        if self._own_check is not None:
            sharded = _zero_optimizer(trainer)
            sharded.overflow, sharded.check_grad_overflow = False, self._own_check
            self._own_check = None


def _zero_optimizer(trainer: pl.Trainer) -> Any:
    """DeepSpeed's optimizer, which holds the gradients; `None` under other strategies."""
    engine = getattr(trainer.strategy, "deepspeed_engine", None)
    optimizer = getattr(engine, "optimizer", None)
    return optimizer if hasattr(optimizer, "averaged_gradients") else None


def _own(sharded: Any) -> Iterator[Tensor]:
    """The gradients that this rank's DeepSpeed optimizer uses."""
    for group in sharded.averaged_gradients.values():
        yield from (gradient for gradient in group or () if gradient is not None)
