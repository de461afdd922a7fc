"""Ranks of one machine's CPU as forks of one process, which share its imports and opened data.

Lightning's launcher starts every rank anew: seconds of imports for each, one after the other with the first.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from data_modules.loader_process import START_METHOD, blocked_stop_signals
from kelip_lightning.distributed.launchers import is_one_of_several

_log = logging.getLogger(__name__)

END_SECONDS = 20.0
"""Longest wait for the other ranks once this one has finished, and for an orphan to end by itself."""
AFTER_ERROR_SECONDS = 1.0
"""The same after an error of this rank; one that died and caused it has ended by then."""
HOLD_SECONDS = 3.0
"""How long another rank holds its error back: longer than `AFTER_ERROR_SECONDS`."""
PARENT_CHECK_SECONDS = 1.0
"""Interval at which another rank checks that the first one is alive."""

_SET = {"NODE_RANK": "0", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
"""Environment of the first rank; with OMP_NUM_THREADS Lightning sets no number of threads itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRanks:
    """The work of all ranks but the first."""

    run: Callable[[], None]
    report: Callable[[BaseException], int | None]
    """Tells an error of `run`, and returns the exit code; `None`: Python prints its traceback."""
    timeout: timedelta
    """Of collectives."""


def can_fork_ranks() -> bool:
    """Whether ranks may be forks: on Linux, unless a launcher has started them."""
    return START_METHOD == "fork" and not is_one_of_several()


@contextmanager
def forked_ranks(number: int, others: OtherRanks) -> Iterator[None]:
    """Run the body as rank 0 of `number` ranks, with one thread each, and the others in forks; one process group.

    An error that all ranks have is the body's to tell: another rank reports its own only after `HOLD_SECONDS`. The
    body's errors end all ranks, as they could wait for it in a collective. No child outlives the body by more than
    `END_SECONDS`, and none returns from here.

    Args:
        number: Ranks; with 1 nothing is started.
        others: What the others do.
    """
    if number == 1:
        yield
        return
    before, num_threads, failed = dict(os.environ), torch.get_num_threads(), True
    children: dict[int, int] = {}
    # NumPy and SciPy have thread pools of their own; those of two ranks would wait for one another's cores.
    blas = threadpool_limits(1, user_api="blas")
    try:
        # Before anything else in a child: with more, OpenMP would wait there for threads that only the parent has.
        torch.set_num_threads(1)
        os.environ |= _SET
        store = TCPStore("127.0.0.1", 0, number, True, others.timeout, wait_for_workers=False)
        _start(children, number, store.port, others)
        _join(store, 0, number, others.timeout)
        yield
        failed = False
    finally:
        try:
            _wait_for(children, failed=failed)
        finally:
            with blocked_stop_signals():
                _kill(children)
                if dist.is_initialized():
                    dist.destroy_process_group()
                torch.set_num_threads(num_threads)
                blas.restore_original_limits()
                for name in _SET:
                    os.environ.pop(name, None)
                os.environ |= {name: before[name] for name in _SET if name in before}


def _start(children: dict[int, int], number: int, port: int, others: OtherRanks) -> None:
    """Fork the other ranks; `children` gets rank -> process id."""

    def join(rank: int) -> None:
        _join(TCPStore("127.0.0.1", port, number, False, others.timeout), rank, number, others.timeout)

    sys.stdout.flush()
    sys.stderr.flush()
    parent, mask = os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    # A signal after the fork could let a child return from here, or hide it from the parent.
    with blocked_stop_signals():
        for rank in range(1, number):
            child = os.fork()
            if not child:
                _become(rank, parent, mask, join, others)
            children[rank] = child


def _join(store: Any, rank: int, number: int, timeout: timedelta) -> None:
    """Lightning then uses this process group. A rank that has joined breaks the others' collectives when it dies."""
    dist.init_process_group("gloo", store=store, rank=rank, world_size=number, timeout=timeout)


def _become(rank: int, parent: int, mask: Any, join: Callable[[int], None], others: OtherRanks) -> NoReturn:
    """The whole life of a child, which begins with its stop signals blocked."""
    code = 1
    try:
        os.environ["LOCAL_RANK"] = str(rank)
        threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            join(rank)
            others.run()
            code = 0
        except BaseException as error:
            _wait_while_alive(parent, HOLD_SECONDS)
            if (reported := others.report(error)) is None:
                sys.excepthook(type(error), error, error.__traceback__)
            else:
                code = reported
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not sys.exit: what the parent has registered to run at its end is not this process's.
        os._exit(code)


def _end_after(parent: int) -> None:
    """In a thread: end this process if its parent has died and it does not notice by itself."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    time.sleep(END_SECONDS)
    os._exit(1)


def _wait_while_alive(parent: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.05)


def _wait_for(children: dict[int, int], *, failed: bool) -> None:
    """Wait until the children have ended, and remove those from the mapping; `failed`: after an error of this rank."""
    seconds = AFTER_ERROR_SECONDS if failed else END_SECONDS
    deadline = time.monotonic() + seconds
    while True:
        for rank, child in list(children.items()):
            if (code := _exit_code(child)) is not None:
                del children[rank]
                if code:
                    _log.warning("rank %d %s", rank, _described(code))
        if not children or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for rank in children if not failed else ():
        _log.warning("rank %d did not end within %g s and is killed", rank, seconds)


def _exit_code(child: int) -> int | None:
    """The exit code of a child; `None`: it runs."""
    ended, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _described(code: int) -> str:
    return f"ended with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"


def _kill(children: dict[int, int]) -> None:
    for child in children.values():
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
