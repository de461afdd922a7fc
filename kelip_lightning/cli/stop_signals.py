"""What Ctrl-C and a scheduler's signals do in a verb: before there is a run, in it, and once its result is complete."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from data_modules.loader_process import SCHEDULER_SIGNALS
from kelip_lightning.errors import Terminated
from kelip_lightning.runs.folder import was_interrupted


@contextmanager
def terminable() -> Iterator[None]:
    """Ends the body with a message on a signal; a stage in training has its own handlers.

    Raises:
        Terminated: A signal of the scheduler came.
        KeyboardInterrupt: Ctrl-C.
    """

    def end(number: int, _: FrameType | None) -> None:
        if was_interrupted(sys.exc_info()[1]):
            return  # launchers send a signal more than once
        raise Terminated(f"{signal.Signals(number).name} received while no stage was training")

    handlers = dict.fromkeys(SCHEDULER_SIGNALS, end)
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # by `ignore_from_now_on`
                signal.signal(number, handler)


def ignore_from_now_on() -> None:
    """Ignore signals of the scheduler until the process ends: its result is complete, and its exit code 0."""
    for number in SCHEDULER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
