"""The fit of a stage: from its checkpoint, with handling of signals and of lost processes."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch

from data_modules.loading import StageDataModule
from kelip_lightning.callbacks.interruption import SignalWatch, explain_lost_peer
from kelip_lightning.config.experiment import Experiment
from kelip_lightning.distributed.accelerators import is_deepspeed, uses_cuda
from kelip_lightning.distributed.local_ranks import can_fork_ranks
from kelip_lightning.errors import CheckpointError
from kelip_lightning.models.kernels import fast_attention
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.planning.stage_plan import stages_of
from kelip_lightning.runs.folder import StageFolder
from kelip_lightning.runs.timing import phase


def fit_stage(
    trainer: pl.Trainer, module: StageModule, data: StageDataModule, stage: StageFolder, signals: SignalWatch
) -> None:
    """Train to the end, from the stage's checkpoint if it has one.

    Raises:
        StageInterrupted: A signal stopped the stage; its checkpoint is written.
        CheckpointWriteError, NonFiniteError: On every rank.
        PeerLostError: Another process died.
        CheckpointError: No step is left, so that nothing would be exported again.
    """
    if stage.checkpoint is not None and stage.checkpoint.step >= trainer.max_steps:
        raise CheckpointError(
            f"{stage.checkpoint.folder} is the last checkpoint of a stage that has finished, but what it exported into "
            f"{stage.path} is missing; bring that back, or repeat the last steps with --resume and an earlier "
            "checkpoint, or start a new run with name=NEW_NAME"
        )
    state = stage.checkpoint.state if stage.checkpoint else None
    with (
        phase("steps"),
        _tuned_kernels(trainer.strategy.root_device),
        signals,
        explain_lost_peer(trainer),
        warnings.catch_warnings(),
    ):
        # Lightning does not know that our samplers can start at any step.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        # weights_only: nothing in a checkpoint is executed.
        trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)


def num_forked_ranks(experiment: Experiment) -> int:
    """Ranks that the command line forks: all of a run on the CPU of this machine, each with one thread; else 1.

    Args:
        experiment: After `with_devices` and `with_threads`.
    """
    trainers = [stage.trainer for stage in stages_of(experiment).values()]
    one_thread = all(one.num_nodes == one.num_threads == 1 for one in trainers)
    elsewhere = any(uses_cuda(one.accelerator) or is_deepspeed(one.strategy) for one in trainers)
    return trainers[0].num_devices if one_thread and not elsewhere and can_fork_ranks() else 1


def disable_lightning_signals(trainer: pl.Trainer) -> None:
    """Leave signals to `SignalWatch`.

    Lightning's handlers communicate with other ranks inside a signal handler, save and requeue on Slurm by themselves,
    and need a broadcast before every step, for which the host waits.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def stage_clock(stage: StageFolder) -> Callable[[], float]:
    """A function that returns the seconds of a stage so far, those before it was resumed included."""
    before, started = stage.checkpoint.manifest.seconds if stage.checkpoint else 0.0, time.monotonic()
    return lambda: before + time.monotonic() - started


@contextmanager
def _tuned_kernels(device: torch.device) -> Iterator[None]:
    """Change two defaults of torch, during a fit, that only cost time in these models."""
    deterministic: Any = torch.utils.deterministic  # a module with properties, which type checkers do not see
    fill = deterministic.fill_uninitialized_memory
    # Deterministic mode fills every new tensor, which only kernels that read uninitialised memory need: a tenth of a
    # step on a CPU, measured.
    deterministic.fill_uninitialized_memory = False
    try:
        with fast_attention(device):
            yield
    finally:
        deterministic.fill_uninitialized_memory = fill
