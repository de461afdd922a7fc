"""What ends a stage before its last step: signals, and the death of another process."""

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

import lightning.pytorch as pl
import torch.distributed as dist

from data_modules.loader_process import SCHEDULER_SIGNALS, STOP_SIGNALS
from kelip_lightning.distributed.torchrun import end_after_peer_loss
from kelip_lightning.errors import PeerLostError

_log = logging.getLogger(__name__)

SAME_SECONDS = 1.0
"""A second SIGINT within this time is the same Ctrl-C, forwarded by both a terminal and a launcher."""

_LOST_PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "timed out waiting",
    "application timeout",
    "broken pipe",
    "socket timeout",
)
"""Messages of gloo about a process that died or hangs; NCCL has error classes of its own."""


class SignalWatch:
    """Records Ctrl-C, SIGTERM and SIGUSR1 (Slurm's warning) inside its `with` block instead of terminating.

    The training loop checks `by_user` and `by_scheduler` at each step and stops after a checkpoint. A second Ctrl-C,
    `SAME_SECONDS` after the first, interrupts at once. On exit the previous handlers are restored, and a scheduler's
    signal that was not handled is raised again, so that it is not lost between two stages.
    """

    def __init__(self) -> None:
        self.by_user = False
        """Whether SIGINT was received."""
        self.by_scheduler = False
        """Whether SIGTERM or SIGUSR1 was received."""
        self.handled = False
        """Set by whoever has stopped the stage."""
        self._last = 0
        self._by_user_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.by_user and number == signal.SIGINT:
            if time.monotonic() - self._by_user_at < SAME_SECONDS:
                return
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            self._by_user_at = time.monotonic()
        self._last = number
        self.by_user |= number == signal.SIGINT
        self.by_scheduler |= number in SCHEDULER_SIGNALS
        again = " (Ctrl-C again: stop at once)" if number == signal.SIGINT else ""
        name = signal.Signals(number).name
        _log.warning("%s: finishing this step, then writing a checkpoint%s", name, again)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if error is None and self.by_scheduler and not self.handled:
            signal.raise_signal(self._last or signal.SIGTERM)


@contextmanager
def explain_lost_peer(trainer: pl.Trainer) -> Iterator[None]:
    """Turn the error of a broken collective into a message, and kill the processes of Lightning's own launcher.

    Raises:
        PeerLostError: Instead of the library's own error.
    """
    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, dist.DistBackendError | dist.DistNetworkError)
        if trainer.world_size == 1 or not (known or any(words in str(error).lower() for words in _LOST_PEER)):
            raise
        launcher: Any = trainer.strategy.launcher
        children = getattr(launcher, "procs", [])
        codes = [(rank, process.poll()) for rank, process in enumerate(children, start=1)]
        ended = ", ".join(f"rank {rank} exited with code {code}" for rank, code in codes if code)
        if children:
            launcher.kill(signal.SIGKILL)  # a process that hangs would outlive this one
        end_after_peer_loss()
        raise PeerLostError(
            f"rank {trainer.global_rank} stops, because another process of the run died or does not respond"
            f"{f': {ended}' if ended else ''} ({str(error).strip().splitlines()[0]})"
        ) from error
