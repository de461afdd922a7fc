"""Signals that end a run, and how `DataLoader` workers handle them. Imports no torch: the command line uses it.

A cluster, a launcher or a terminal sends a signal to every process of a run. The main process answers it with a
checkpoint, and needs batches to finish its step, so workers ignore these signals.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SCHEDULER_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Sent by a cluster before it ends a job."""
STOP_SIGNALS = (signal.SIGINT, *SCHEDULER_SIGNALS)
"""Answered with a checkpoint by the main process of a run."""
PARENT_CHECK_SECONDS = 1.0
"""Interval at which a worker checks that its main process is alive."""
START_METHOD = "fork" if sys.platform == "linux" else None
"""A fork server, Python's default from 3.14 on, would be a further process that the signals end."""


@contextlib.contextmanager
def blocked_stop_signals() -> Iterator[None]:
    """Blocks the signals in this thread, and in processes that it starts until they unblock them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_loader_process(parent: int, _: int) -> None:
    """`worker_init_fn` of a worker that was started with its signals blocked; it ends only with its parent.

    Args:
        parent: Process id of the main process, which closes a worker with SIGTERM.
        _: Number of the worker.
    """
    os.nice(10)
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        # In a thread, which runs while a decoder or a hanging disk blocks the main one; SIGTERM itself stays blocked.
        threading.Thread(target=_end_with_parent, args=(parent,), name="parent", daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _end_with_parent(parent: int) -> None:
    """Ends this process when its parent sends SIGTERM or is gone; SIGTERM of other senders is dropped."""
    while os.getppid() == parent:
        received = signal.sigtimedwait([signal.SIGTERM], PARENT_CHECK_SECONDS)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)  # like torch's own handler: any other code would count as a crash
