"""What the system says about processes: who is whose child, and who is in which group."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

SECONDS = 120


def members(group: int) -> list[int]:
    """The processes of a group that are not yet dead."""
    return [process for process, (state, _, its_group) in _table().items() if its_group == group and state not in "ZX"]


def children(parent: int) -> list[int]:
    """The processes that a process has started and that are not yet dead."""
    return [
        process for process, (state, its_parent, _) in _table().items() if its_parent == parent and state not in "ZX"
    ]


def _table() -> dict[int, tuple[str, int, int]]:
    """Process -> (state, parent, group)."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
        except OSError:  # it has ended in the meantime
            continue
        found[int(file.parent.name)] = state, int(parent), int(group)
    return found


def wait_until(holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Look many times a second.

    Raises:
        AssertionError: It does not hold after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def end_group(group: int) -> None:
    """Leave nothing behind, whatever a test has found."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="asks /proc about processes")
