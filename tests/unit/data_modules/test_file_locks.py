"""Locks between processes whose file goes away at the end."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_modules import file_locks
from data_modules.file_locks import locked


def test_locked__one_at_a_time_whoever_removes_the_file(tmp_path: Path) -> None:
    """Many holders in turn, each of which removes the file that the next ones already wait for."""
    path, inside, most, entered = tmp_path / "a.lock", [0], [0], [0]
    guard = threading.Lock()

    def hold(_: int) -> None:
        with locked(path):
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                entered[0] += 1
            time.sleep(0.001)
            with guard:
                inside[0] -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, range(80)))
    assert (most[0], entered[0]) == (1, 80)
    assert not path.exists()


def test_locked__a_file_that_its_last_holder_has_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock, calls = tmp_path / "a.lock", file_locks.fcntl.flock, []

    def removed_meanwhile(lock: int, operation: int) -> None:
        flock(lock, operation)
        calls.append(None)
        if len(calls) == 1:
            path.unlink()

    monkeypatch.setattr(file_locks.fcntl, "flock", removed_meanwhile)
    with locked(path):
        assert len(calls) == 2
        assert path.is_file()


def test_locked__is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "a.lock"):
        raise ValueError("inside")
    with locked(tmp_path / "a.lock"):
        assert os.listdir(tmp_path) == ["a.lock"]
    assert not os.listdir(tmp_path)
