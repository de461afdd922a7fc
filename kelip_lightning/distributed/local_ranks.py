"""Ranks of one machine's CPU as forks of one process, which share its imports and opened data.

Lightning's launcher starts every rank anew: seconds of imports for each, one after the other with the first.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from data_modules.loader_process import START_METHOD

_log = logging.getLogger(__name__)

_LAUNCHED = ("LOCAL_RANK", "RANK", "SLURM_PROCID", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
"""Set by launchers: this process is then one of several already."""
END_SECONDS = 20.0
"""Longest wait for the other ranks after this one has ended; then they are killed."""


def can_fork_ranks(num_threads: int) -> bool:
    """Whether ranks may be forks: on Linux, not launched already, one thread each."""
    return START_METHOD == "fork" and num_threads == 1 and not any(name in os.environ for name in _LAUNCHED)


@contextmanager
def forked_ranks(number: int, run: Callable[[], int]) -> Iterator[None]:
    """Run the body as rank 0 of `number` ranks, and `run` in a fork for each of the others.

    The environment names the ranks to Lightning and torch. Ranks that still run when the body has ended have
    `END_SECONDS` to end; after an error of the body they could wait for this rank in a collective, and are killed then.

    Args:
        number: Ranks; with 1 nothing is started.
        run: The other ranks' work; returns their exit code.
    """
    if number == 1:
        yield
        return
    # Before anything else in a child: with more, OpenMP would wait there for threads that only the parent has.
    torch.set_num_threads(1)
    before = dict(os.environ)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0", "LOCAL_RANK": "0"}
    children = [_start(rank, run) for rank in range(1, number)]
    try:
        yield
    finally:
        for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
        os.environ |= before
        _wait_for(children)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _start(rank: int, run: Callable[[], int]) -> int:
    """The process id of a fork that runs `run` and ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ["LOCAL_RANK"] = str(rank)
        code = run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # Not sys.exit: what the parent has registered to run at its end is not this process's.
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait_for(children: list[int]) -> None:
    """Remove the children that have ended within `END_SECONDS` from the list."""
    deadline = time.monotonic() + END_SECONDS
    while children:
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
                if code := os.waitstatus_to_exitcode(status):
                    _log.warning("another rank ended with exit code %d", code)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port
