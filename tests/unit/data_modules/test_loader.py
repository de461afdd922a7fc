"""A loader whose workers hang while they start."""

import fcntl
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from data_modules import loader
from data_modules.errors import DataError
from data_modules.loader import build_fixed_loader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")


class _Squares(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index * index


def _hang_in_forks(monkeypatch: pytest.MonkeyPatch, marks: Path, number: int) -> None:
    """The first forks never return in the child, as in `_PyThreadState_DeleteExcept` of Python 3.11."""
    fork = os.fork

    def forks() -> int:
        taken = len(list(marks.iterdir()))
        process = fork()
        if taken < number:
            if not process:
                while True:
                    time.sleep(60)
            (marks / str(process)).touch()
        return process

    monkeypatch.setattr(os, "fork", forks)
    monkeypatch.setattr(loader, "START_SECONDS", 1.0)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [1, 3])
def test_workers_that_hang_in_a_fork__are_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """One of two workers hangs, or both and then one more: the batches are those of a loader that never hung."""
    _hang_in_forks(monkeypatch, tmp_path, number)
    batches = [[0, 1], [2], [3, 4, 5], [6]]
    with caplog.at_level(logging.WARNING, logger="data_modules.loader"):
        found = list(build_fixed_loader(_Squares(), batches, list, num_workers=2))
    assert found == [[0, 1], [4], [9, 16, 25], [36]]
    assert len(caplog.messages) == (number + 1) // 2
    assert not any(_is_alive(int(mark.name)) for mark in tmp_path.iterdir())
    assert not multiprocessing.active_children()


def test_workers_that_never_start__are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hang_in_forks(monkeypatch, tmp_path, 100)
    with pytest.raises(DataError, match=r"did not start within 1 s, 3 times; set data\.num_workers=0"):
        iter(build_fixed_loader(_Squares(), [[0], [1]], list, num_workers=1))
    assert not any(_is_alive(int(mark.name)) for mark in tmp_path.iterdir())


def _die(_: list[int]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies__is_reported_by_torch() -> None:
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* killed|exited unexpectedly"):
        list(build_fixed_loader(_Squares(), [[0], [1]], _die, num_workers=1))


def test_start__with_more_than_a_thousand_files_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096 if hard == unlimited else max(soft, min(hard, 4096)), hard))
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1500)
    try:
        os.write(writing, b"..")
        assert loader._wait_for_reports(high, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in (reading, writing, high):
            os.close(descriptor)
