"""Loader processes and signals: what is sent to a whole run is for its main process, which needs batches to end a step.

A cluster, a launcher or a terminal sends a signal to every process that belongs to a run. The main process answers it;
a loader process that died of it would take the main process down before its checkpoint.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from data_modules.signals import STOP_SIGNALS

PARENT_CHECK_SECONDS = 1.0
"""How long a loader process outlives a main process that was killed."""
START_METHOD = "fork" if sys.platform == "linux" else None
"""A fork server, Python's default from 3.14 on, would be one more process between the two, and die of the signals."""


class LoaderOfProcesses(DataLoader[Any]):
    """A loader whose processes never see a signal before they know what to do with it."""

    def __iter__(self) -> Any:
        """Starts the processes, `num_workers` of them."""
        with _held_signals():
            return super().__iter__()


@contextmanager
def _held_signals() -> Iterator[None]:
    """Signals wait, here until the end and in processes that are started meanwhile until these let them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_loader_process(parent: int, _: int) -> None:
    """Set a loader process up: one thread for torch, deaf to the run's signals, dead when its parent wants or is.

    Args:
        parent: The main process, whose SIGTERM is how a loader is closed by force.
        _: Number of the process.
    """
    torch.set_num_threads(1)
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        # In a thread, so that it is heard while a decoder or a dead disk holds the main one; SIGTERM itself stays held.
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _end_with(parent: int) -> None:
    """End this process at once when its parent sends SIGTERM or is gone; SIGTERM of anybody else is dropped."""
    while os.getppid() == parent:
        told = signal.sigtimedwait([signal.SIGTERM], PARENT_CHECK_SECONDS)
        if told is not None and told.si_pid == parent:
            break
    os._exit(0)  # as torch's own handler: any other code would be taken for a crash
