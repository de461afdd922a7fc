"""The `DataLoader` of training and evaluation."""

import functools
import logging
import os
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data_modules.errors import DataError
from data_modules.loader_process import START_METHOD, blocked_stop_signals, init_loader_process

_log = logging.getLogger(__name__)

LOADER_TIMEOUT_SECONDS = 600
"""Longest wait for a batch; then the run ends with an error."""


START_SECONDS = 30.0
"""Longest wait for the workers to start; then they are started again."""
_STARTS = 3
"""Attempts to start the workers."""


class SignalSafeDataLoader(DataLoader[Any]):
    """A `DataLoader` that starts its workers with the run's stop signals blocked, and starts them again if one hangs.

    Python below 3.12 can hang in the child of a fork: while a thread of torch's (that of a gloo collective, for
    example) enters Python, it holds a lock that the child then waits for, for ever (`_PyThreadState_DeleteExcept`;
    3.12 creates the lock anew first).
    """

    def __iter__(self) -> Any:
        """An iterator whose workers run.

        Raises:
            DataError: They did not start, three times.
        """
        if not self.num_workers or START_METHOD != "fork":
            with blocked_stop_signals():
                return super().__iter__()
        for attempt in range(1, _STARTS + 1):
            iterator, started = self._start()
            if started:
                return iterator
            _log.warning("loader processes did not start within %g s (attempt %d)", START_SECONDS, attempt)
            _end(iterator)
        raise DataError(
            f"loader processes did not start within {START_SECONDS:g} s, {_STARTS} times; set data.num_workers=0, or "
            "use Python 3.12 or newer"
        )

    def _start(self) -> tuple[Any, bool]:
        """The iterator, and whether all its workers have run their init function."""
        init, (reading, writing) = self.worker_init_fn, os.pipe()
        self.worker_init_fn = functools.partial(_report_start, init, reading, writing)
        try:
            with blocked_stop_signals():
                iterator = super().__iter__()
        finally:
            self.worker_init_fn = init
            os.close(writing)
        try:
            return iterator, _wait_for_reports(reading, self.num_workers)
        finally:
            os.close(reading)


def _report_start(init: Callable[[int], None] | None, reading: int, writing: int, number: int) -> None:
    """`worker_init_fn` of a worker that tells its parent that it runs."""
    os.close(reading)
    os.write(writing, b".")
    os.close(writing)
    if init is not None:
        init(number)


def _wait_for_reports(reading: int, count: int) -> bool:
    """Whether all workers have reported, or ended, which torch reports itself, within `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while count:
        # Not `select.select`, which refuses descriptors above 1,023: a process may have more files open.
        if not wait([reading], max(0.0, deadline - time.monotonic())):
            return False
        reports = os.read(reading, count)
        if not reports:  # no process can write any more
            return True
        count -= len(reports)
    return True


def _end(iterator: Any) -> None:
    """End the workers; one that hangs in a fork answers nothing but SIGKILL."""
    iterator._shutdown_workers()  # torch has no public way to close an iterator
    for process in iterator._workers:
        process.kill()
        process.join()


def build_fixed_loader(
    dataset: Dataset[Any],
    batches: Any,
    collate: Callable[[list[Any]], Any],
    num_workers: int,
    *,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> SignalSafeDataLoader:
    """A loader of given batches, in order; `batches` is an iterable of lists of a dataset's indices."""
    return SignalSafeDataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        multiprocessing_context=START_METHOD if num_workers else None,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor if num_workers else None,
        timeout=LOADER_TIMEOUT_SECONDS if num_workers else 0,
        # Without it, the loader draws its base seed from the global stream.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=functools.partial(init_loader_process, os.getpid()),
    )
