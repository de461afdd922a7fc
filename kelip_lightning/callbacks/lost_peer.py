"""What to say when another process of a distributed run is gone."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist

from kelip_lightning.errors import PeerLostError

_WORDS = (
    "connection closed by peer",
    "connection reset by peer",
    "timed out waiting",
    "application timeout",
    "broken pipe",
    "socket timeout",
)
"""What gloo says of a process that is gone or hangs; NCCL has error classes of its own."""


@contextmanager
def explain_lost_peer(trainer: pl.Trainer) -> Iterator[None]:
    """Turn the error of a broken collective into a sentence.

    Raises:
        PeerLostError: Instead of the library's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not _says_peer_lost(error):
            raise
        message = (
            f"rank {trainer.global_rank} stops, because another process of the run has died or no longer answers"
            f"{_ended_children(trainer)} ({str(error).strip().splitlines()[0]})"
        )
        _kill_children(trainer)
        raise PeerLostError(message) from error


def _says_peer_lost(error: RuntimeError) -> bool:
    known = (dist.DistBackendError, dist.DistNetworkError)
    return isinstance(error, known) or any(words in str(error).lower() for words in _WORDS)


def _kill_children(trainer: pl.Trainer) -> None:
    """End what Lightning's launcher started: a process that hangs would outlive this one."""
    launcher: Any = trainer.strategy.launcher
    if getattr(launcher, "procs", []):
        launcher.kill(signal.SIGKILL)


def _ended_children(trainer: pl.Trainer) -> str:
    """Which of the processes that Lightning's launcher started have ended, and how."""
    launcher: Any = trainer.strategy.launcher
    ended = [(rank, process.poll()) for rank, process in enumerate(getattr(launcher, "procs", []), start=1)]
    told = [f"rank {rank} ended with exit code {code}" for rank, code in ended if code]
    return f": {', '.join(told)}" if told else ""
