"""Loader processes hear their parent, and no other sender of signals."""

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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="senders of signals are known on Linux alone")
_CONTEXT = multiprocessing.get_context("fork")


def _stuck(parent: int, ready: Any) -> None:
    """A loader process whose main thread never comes back, deep in a library."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # as `SignalSafeDataLoader` starts it
    init_loader_process(parent, 0)
    ready.set()
    time.sleep(120)


@pytest.fixture
def stuck() -> Iterator[BaseProcess]:
    ready = _CONTEXT.Event()
    process = _CONTEXT.Process(target=_stuck, args=(os.getpid(), ready), daemon=True)
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_init_loader_process__lives_through_signals_of_others(stuck: BaseProcess, number: signal.Signals) -> None:
    for _ in range(3):
        subprocess.run(["kill", f"-{number.value}", str(stuck.pid)], check=True)
        stuck.join(0.2)
    assert stuck.is_alive()


def test_init_loader_process__ends_when_its_parent_terminates_it_though_it_is_stuck(stuck: BaseProcess) -> None:
    stuck.terminate()
    stuck.join(10)
    assert stuck.exitcode == 0


def test_init_loader_process__ends_when_its_parent_is_gone() -> None:
    ready = _CONTEXT.Event()
    orphan = _CONTEXT.Process(target=_stuck, args=(1 << 22, ready), daemon=True)  # no process has this number
    orphan.start()
    orphan.join(PARENT_CHECK_SECONDS + 30)
    assert orphan.exitcode == 0


_AT_START: list[bool] = []
"""Of a loader process: which of the run's signals were held before it was set up."""


def _start(number: int) -> None:
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    _AT_START[:] = [one in held for one in STOP_SIGNALS]
    init_loader_process(os.getppid(), number)


class _Answers(Dataset[list[Any]]):
    """Tells for each of the run's signals whether it was held when the process began, and is without effect now."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> list[Any]:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return [_AT_START, [one in held or signal.getsignal(one) is signal.SIG_IGN for one in STOP_SIGNALS]]


def test_signal_safe_data_loader__no_signal_gets_through_from_the_very_start(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    original = DataLoader._get_iterator

    def get_iterator(self: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)  # in the midst of the start
        return original(self)

    monkeypatch.setattr(DataLoader, "_get_iterator", get_iterator)
    previous = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        loader = SignalSafeDataLoader(
            _Answers(), batch_size=None, num_workers=1, multiprocessing_context=START_METHOD, worker_init_fn=_start
        )
        assert list(loader) == 2 * [[[True, True, True], [True, True, True]]]
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert heard == [signal.SIGUSR1], "the main process hears it, once"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOP_SIGNALS), "signals stay held"


class _Stuck(Dataset[int]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index:
            time.sleep(120)
        return index


def test_signal_safe_data_loader__closes_though_a_process_is_stuck() -> None:
    loader = SignalSafeDataLoader(
        _Stuck(), batch_size=None, num_workers=2, multiprocessing_context=START_METHOD,
        worker_init_fn=lambda number: init_loader_process(os.getppid(), number),
    )  # fmt: skip
    iterator = iter(loader)
    assert int(next(iterator)) == 0
    processes = list(iterator._workers)
    started = time.monotonic()
    iterator._shutdown_workers()
    assert [process.exitcode for process in processes] == [0, 0]
    interval = torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL
    assert time.monotonic() - started < 2 * interval + 5, "torch waits so long for each before it ends it"
