"""Training of a few steps on the meta device, through `build_trainer` and its callbacks."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import optimizer as torch_optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from kelip_lightning.callbacks import exact_resume
from kelip_lightning.callbacks.data_health import DataHealthCallback
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.callbacks.progress import PairProgressBar, ProgressLog
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.runs.folder import StageFolder
from kelip_lightning.training import stages
from kelip_lightning.training.inputs import build_image_data, build_image_text_data
from tests.faults.experiment import write_experiment
from tests.operations.nondeterministic import RAISES, SLOWER
from tests.operations.recorder import OperationRecorder

STEPS = 5
"""The first step, which fills caches, and the last are not recorded."""

LOG_EVERY = 2
_SHARED = ("image_encoder.", "transform.image_size=")


class _Recording(pl.Callback):
    """Arms the recorder from the second step, for three steps."""

    def __init__(self, recorder: OperationRecorder) -> None:
        self._recorder = recorder

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Before every step."""
        self._recorder.step = trainer.global_step
        self._recorder.armed = 1 <= trainer.global_step < STEPS - 1


class _DeviceWithoutData(SingleDeviceStrategy):
    """A process with root device `meta`, alone or with absent peers; without DDP, whose hooks need a device."""

    def __init__(self, world: int) -> None:
        super().__init__(device="meta")
        self.world_size = world

    def setup_environment(self) -> None:
        """Skip the accelerator, which does not support the device."""


def record_training(
    folder: Path, stage: str, overrides: Sequence[str], patch: pytest.MonkeyPatch, world: int = 1
) -> OperationRecorder:
    """Record steps 1 to 3 of a stage, mae or contrastive, as rank 0 of `world` processes.

    Overrides of the image encoder apply to both stages, which share it.
    """
    settings = [f"trainer.log_every_n_steps={LOG_EVERY}", f"schedule.max_steps={STEPS}", "schedule.warmup_steps=0"]
    settings += ["checkpoint.every_n_steps=null", *overrides]
    keys = [one if one.startswith(_SHARED) else f"{stage}.{one}" for one in settings]
    experiment = load_experiment(write_experiment(folder), keys, PretrainExperiment).experiment
    config = experiment.mae if stage == "mae" else experiment.contrastive
    module, data = _build(config)
    _substitute_meta_for_a_gpu(patch, world)
    recorder = OperationRecorder(RAISES | SLOWER)
    place = StageFolder(name=stage, path=folder / stage, metrics_file=folder / "metrics.jsonl")
    trainer = stages.build_trainer(
        config,
        place,
        SignalWatch(),
        lambda: 0.0,
        PairProgressBar(stage),
        ProgressLog(stage, global_batch_size=config.data.global_batch_size, interval_seconds=0.01),
        DataHealthCallback(place.bad_samples, config.data.corrupt_samples, data.sources),
        _Recording(recorder),
    )
    with recorder, _processes(world):
        trainer.fit(module, datamodule=data)
    return recorder


@contextlib.contextmanager
def _processes(world: int) -> Iterator[None]:
    """Torch's fake process group, whose collectives have no effect."""
    if world == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _build(config: Any) -> tuple[StageModule, Any]:
    if not hasattr(config, "masked_autoencoder"):
        data = build_image_text_data(config)
        return stages.build_contrastive_module(config, data.tokenizer), data
    return stages.build_masked_pretrain_module(config), build_image_data(config)


def _substitute_meta_for_a_gpu(patch: pytest.MonkeyPatch, world: int) -> None:
    autocast = torch.autocast

    def autocast_elsewhere(device_type: str, *arguments: Any, **options: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else autocast(device_type, *arguments, **options)

    fused = _get_fused_kernels_supported_devices()
    patch.setattr(torch, "autocast", autocast_elsewhere)
    patch.setattr(torch_optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused, "meta"])
    patch.setattr(stages, "build_strategy", lambda *_, **__: _DeviceWithoutData(world))
    patch.setattr(exact_resume, "gather_objects", lambda _, value: [value] * world)
