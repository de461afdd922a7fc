"""Our steps: a fit of `pl.Trainer` with the module, callbacks and kernels of a run, on fixed batches."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from data_modules.loading import open_sources
from data_modules.records import Batch
from kelip_lightning.benchmarks.step.batches import FixedBatches, plain_tokenizer
from kelip_lightning.benchmarks.step.clock import StepClock
from kelip_lightning.benchmarks.step.setting import StepSetting, architecture_of, experiment_of
from kelip_lightning.callbacks.data_health import DataHealthCallback
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.callbacks.progress import PairProgressBar
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.planning.stage_plan import Stage
from kelip_lightning.runs.folder import StageFolder
from kelip_lightning.training.fit import fit_stage, stage_clock
from kelip_lightning.training.stages import build_contrastive_module, build_trainer


class StopCallback(pl.Callback):
    """Stops the fit after the last step of a clock."""

    def __init__(self, clock: StepClock) -> None:
        super().__init__()
        self._clock = clock

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time."""
        trainer.should_stop = self._clock.step_ended(outputs["loss"])


class GradientsCallback(pl.Callback):
    """Keeps loss and gradients of the first step as they are before clipping, and stops the fit."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = torch.empty(())
        self.gradients: dict[str, Tensor] = {}
        """Parameter of the dual encoder -> gradient."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        self.loss = loss.detach().clone()

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Copy the gradients, which the trainer clips in place."""
        named = pl_module.model.named_parameters()
        self.gradients = {name: one.grad.clone() for name, one in named if one.grad is not None}
        trainer.should_stop = True


def build_module(setting: StepSetting, num_steps: int) -> ContrastiveModule:
    """The module of these sizes, with the weights that every contestant starts from."""
    return build_contrastive_module(experiment_of(setting, num_steps), plain_tokenizer(architecture_of(setting)))


def fit(
    experiment: Stage, module: StageModule, batches: Sequence[Batch], num_steps: int, *callbacks: pl.Callback
) -> None:
    """Train on the batches in turn, with the callbacks of a run that act on every step, and these.

    Args:
        experiment: Of more than `num_steps` steps.
        module: Its module.
        batches: Of one device.
        num_steps: Steps after which one of the callbacks stops the fit.
        callbacks: The last ones.
    """
    sources = open_sources(experiment.data.sources)
    with tempfile.TemporaryDirectory() as place, _restored_settings(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of training batches")  # logging is off on purpose
        stage = StageFolder(name="benchmark", path=Path(place), metrics_file=Path(place) / "metrics.jsonl")
        signals = SignalWatch()
        trainer = build_trainer(
            experiment,
            stage,
            signals,
            stage_clock(stage),
            PairProgressBar("benchmark"),
            DataHealthCallback(stage.bad_samples, experiment.data.corrupt_samples, sources),
            *callbacks,
        )
        fit_stage(trainer, module, FixedBatches(batches, num_steps), stage, signals)


@contextmanager
def _restored_settings() -> Iterator[None]:
    """Settings of torch that a Trainer changes for the whole process, as before afterwards."""
    cudnn = torch.backends.cudnn
    deterministic = torch.are_deterministic_algorithms_enabled()
    before = (cudnn.benchmark, cudnn.deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        cudnn.benchmark, cudnn.deterministic = before
