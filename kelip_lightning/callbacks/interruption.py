"""Signals while a stage trains: Ctrl-C, SIGTERM and SIGUSR1 (Slurm's warning) stop it at the end of a step."""

import logging
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

from data_modules.loader_process import SCHEDULER_SIGNALS, STOP_SIGNALS

_log = logging.getLogger(__name__)

Handler = Any
"""What `signal.signal` takes and returns."""
SAME_SECONDS = 1.0
"""Ctrl-C that comes again so soon is the same one: a terminal or a scheduler and a launcher both pass it on."""


class SignalWatch:
    """Notes signals instead of dying of them, from `with` to its end.

    The training loop looks at `by_user` and `by_scheduler` at each step and stops in order. A second Ctrl-C,
    `SAME_SECONDS` after the first, interrupts at once. On the way out the handlers are as they were, and a scheduler's
    signal that nobody has acted on is sent again, so that it is not lost between two stages.
    """

    def __init__(self) -> None:
        self.by_user = False
        """Whether SIGINT has come."""
        self.by_scheduler = False
        """Whether SIGTERM or SIGUSR1 has come."""
        self.handled = False
        """Set by whoever has stopped the stage."""
        self._last = 0
        self._by_user_at = 0.0
        self._previous: dict[int, Handler] = {}

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
