"""Parents and groups of processes, from /proc."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SECONDS = 120


def members(group: int) -> list[int]:
    """The live processes of a group."""
    return [process for process, (_, its_group) in _live().items() if its_group == group]


def children(parent: int) -> list[int]:
    """The live processes that a process has started."""
    return [process for process, (its_parent, _) in _live().items() if its_parent == parent]


def descendants(parent: int) -> list[int]:
    """All live processes below one, in any session."""
    below = children(parent)
    return below + [one for child in below for one in descendants(child)]


def end_tree(process: "subprocess.Popen[Any]") -> None:
    """Kill a command with all that runs below it, in any session, and wait for it."""
    for one in [*descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def all_processes() -> list[int]:
    """All processes of the system, zombies too."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _live() -> dict[int, tuple[int, int]]:
    """Process -> (parent, group), without zombies."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
        except OSError:  # it has ended in the meantime
            continue
        if state not in "ZX":
            found[int(file.parent.name)] = int(parent), int(group)
    return found


def wait_until(holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Poll a condition.

    Raises:
        AssertionError: It does not hold after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def end_group(group: int) -> None:
    """Kill a process group, if it exists."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
