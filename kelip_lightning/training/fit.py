"""One stage's fit: from its checkpoint, under watch of signals and of the other processes."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch

from data_modules.loading import StageDataModule
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.callbacks.lost_peer import explain_lost_peer
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.runs.stage_folder import StageFolder


def fit_stage(
    trainer: pl.Trainer, module: StageModule, data: StageDataModule, stage: StageFolder, signals: SignalWatch
) -> None:
    """Train to the end, from the stage's checkpoint if it has one.

    Raises:
        StageInterrupted: A signal stopped the stage; its checkpoint is written.
        CheckpointWriteError, NonFiniteError: On every rank.
        PeerLostError: Another process died.
    """
    state = stage.checkpoint.state if stage.checkpoint else None
    with (
        _tuned_kernels(trainer.strategy.root_device),
        signals,
        explain_lost_peer(trainer),
        warnings.catch_warnings(),
    ):
        # Lightning does not know that our samplers begin at any step.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        # Only tensors and plain values are read from a checkpoint: nothing in it is run.
        trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)


def leave_signals_to_us(trainer: pl.Trainer) -> None:
    """Lightning's handlers talk to other ranks from inside a signal, and on Slurm save and requeue by themselves.

    `SignalWatch` has taken their place, so that there is no signal either of which Lightning would have to tell the
    other ranks, by a broadcast before every step whose result the host waits for.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def stage_clock(stage: StageFolder) -> Callable[[], float]:
    """Tells the seconds that a stage has taken so far, those before it was resumed included."""
    before, started = stage.checkpoint.manifest.seconds if stage.checkpoint else 0.0, time.monotonic()
    return lambda: before + time.monotonic() - started


@contextmanager
def _tuned_kernels(device: torch.device) -> Iterator[None]:
    """For the length of a fit, two defaults of torch changed that only cost time in these models."""
    deterministic: Any = torch.utils.deterministic  # a module with properties, which type checkers do not see
    flash, fill = torch.backends.cuda.flash_sdp_enabled(), deterministic.fill_uninitialized_memory
    # torch's fused attention is slower than the plain one on CPUs at 5 to 80 tokens: 1.4 times the step, measured.
    torch.backends.cuda.enable_flash_sdp(flash and device.type != "cpu")
    # Deterministic mode fills every new tensor, which matters only to kernels that read what they never wrote: a tenth
    # of a step on a CPU, measured.
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        deterministic.fill_uninitialized_memory = fill
