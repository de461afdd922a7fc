"""`DataLoader` workers end with their parent and ignore signals of other senders."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data_modules.loader_process import PARENT_CHECK_SECONDS, START_METHOD, STOP_SIGNALS, init_loader_process
from data_modules.loading import SignalSafeDataLoader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the sender of a signal")
_CONTEXT = multiprocessing.get_context("fork")


def _hang(parent: int, ready: Any) -> None:
    """A worker whose main thread hangs in a library."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # as `SignalSafeDataLoader` starts it
    init_loader_process(parent, 0)
    ready.set()
    time.sleep(120)


@pytest.fixture
def stuck() -> Iterator[BaseProcess]:
    ready = _CONTEXT.Event()
    process = _CONTEXT.Process(target=_hang, args=(os.getpid(), ready), daemon=True)
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_init_loader_process__survives_signals_of_others(stuck: BaseProcess, number: signal.Signals) -> None:
    for _ in range(3):
        subprocess.run(["kill", f"-{number.value}", str(stuck.pid)], check=True)
        stuck.join(0.2)
    assert stuck.is_alive()


def test_init_loader_process__ends_when_its_parent_terminates_it_while_it_hangs(stuck: BaseProcess) -> None:
    stuck.terminate()
    stuck.join(10)
    assert stuck.exitcode == 0


def test_init_loader_process__ends_when_its_parent_is_gone() -> None:
    ready = _CONTEXT.Event()
    orphan = _CONTEXT.Process(target=_hang, args=(1 << 22, ready), daemon=True)  # no process has this number
    orphan.start()
    orphan.join(PARENT_CHECK_SECONDS + 30)
    assert orphan.exitcode == 0


_AT_START: list[bool] = []
"""Of a worker: whether each of the run's signals was blocked before its init function."""


def _start(number: int) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    _AT_START[:] = [one in blocked for one in STOP_SIGNALS]
    init_loader_process(os.getppid(), number)


class _SignalStates(Dataset[list[Any]]):
    """For each of the run's signals, whether it was blocked when the worker started, and is without effect now."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> list[Any]:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return [_AT_START, [one in blocked or signal.getsignal(one) is signal.SIG_IGN for one in STOP_SIGNALS]]


def test_signal_safe_data_loader__blocks_signals_while_workers_start(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    original = DataLoader._get_iterator

    def get_iterator(self: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)  # while workers start
        return original(self)

    monkeypatch.setattr(DataLoader, "_get_iterator", get_iterator)
    previous = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        loader = SignalSafeDataLoader(
            _SignalStates(), batch_size=None, num_workers=1, multiprocessing_context=START_METHOD, worker_init_fn=_start
        )
        assert list(loader) == 2 * [[[True, True, True], [True, True, True]]]
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert received == [signal.SIGUSR1], "the main process receives it, once"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOP_SIGNALS), "signals stay blocked"


class _Hanging(Dataset[int]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index:
            time.sleep(120)
        return index


def test_signal_safe_data_loader__closes_while_a_worker_hangs() -> None:
    options = {"worker_init_fn": lambda number: init_loader_process(os.getppid(), number)}
    options |= {"batch_size": None, "num_workers": 2, "multiprocessing_context": START_METHOD}
    iterator = iter(SignalSafeDataLoader(_Hanging(), **options))
    assert int(next(iterator)) == 0
    processes = list(iterator._workers)
    started = time.monotonic()
    iterator._shutdown_workers()
    assert [process.exitcode for process in processes] == [0, 0]
    interval = torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL
    assert time.monotonic() - started < 2 * interval + 5, "torch waits this long for each before it terminates it"
