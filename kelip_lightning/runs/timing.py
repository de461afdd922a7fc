"""Where the time of a run goes: seconds of its phases, which may be nested, and timing.json.

A phase is a `with` block, or a function under `@phase(...)`, counted by the clock that is active around it, if any. Its
path names the phases around it: contrastive/steps/loader. Seconds belong to the innermost phase alone, so those of all
paths sum to the time since the clock was made.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder, is_first_process, write_whole

OUTSIDE = "other"
"""The path of what is in no phase."""

_active: "ContextVar[PhaseClock | None]" = ContextVar("active phase clock", default=None)


class PhaseClock:
    """Seconds of phases by the wall clock, since this object was made."""

    def __init__(self) -> None:
        self.began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        """Local time, ISO 8601 with the offset."""
        self._seconds: dict[str, float] = {}
        self._path: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def active(self) -> Iterator["PhaseClock"]:
        """The clock that counts the phases of this block, of whatever module."""
        token = _active.set(self)
        try:
            yield self
        finally:
            _active.reset(token)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block under the path of this phase."""
        self._count()
        self._path.append(name)
        try:
            yield
        finally:
            self._count()
            self._path.pop()

    def innermost(self) -> str | None:
        """The phase that counts now; `None` outside of all."""
        path = self._path[-1:]  # a copy, as another thread may ask
        return path[0] if path else None

    def seconds(self) -> dict[str, float]:
        """Path -> seconds so far, in the order in which the phases were first left."""
        self._count()
        return dict(self._seconds)

    def _count(self) -> None:
        """Add the time since the last call to the current path."""
        now, path = time.perf_counter(), "/".join(self._path) or OUTSIDE
        self._seconds[path] = self._seconds.get(path, 0.0) + now - self._since
        self._since = now


@contextmanager
def clocked() -> Iterator[None]:
    """A new clock is active in the block, or during each call of the decorated function."""
    with PhaseClock().active():
        yield


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the block, or the decorated function, by the active clock; without one nothing is counted."""
    clock = _active.get()
    if clock is None:
        yield
        return
    with clock.phase(name):
        yield


def current_phase() -> Callable[[], str | None]:
    """A function that returns the innermost phase that the clock active here counts at that moment, in any thread."""
    clock = _active.get()
    return lambda: clock.innermost() if clock else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One command that trained the run."""

    began: str
    """Local time, ISO 8601 with the offset."""
    seconds: dict[str, float]
    """Path of a phase -> seconds."""

    @property
    def total(self) -> float:
        """Seconds of the whole command, from its first line to the end of training."""
        return sum(self.seconds.values())

    def seconds_in(self, *phases: str) -> float:
        """Seconds of these phases, of all paths that end with one of them."""
        return sum(taken for path, taken in self.seconds.items() if path.split("/")[-1] in phases)


@contextmanager
def recorded_phases(run: RunFolder) -> Iterator[None]:
    """Add the active clock's session to timing.json when the block ends, however it ends.

    The first process alone writes, and only if there is a clock.
    """
    clock = _active.get()
    try:
        yield
    finally:
        if clock is not None and is_first_process():
            with suppress(OSError):  # a full disk is already reported
                _add_session(run, {"began": clock.began, "seconds": clock.seconds()})


def _add_session(run: RunFolder, session: dict[str, Any]) -> None:
    try:
        earlier = _read(run.timing)
    except RunFolderError:  # a damaged record must not end a run
        earlier = []
    rounded = {path: round(seconds, 3) for path, seconds in session["seconds"].items()}
    write_whole(run.timing, json.dumps({"sessions": [*earlier, session | {"seconds": rounded}]}, indent=1) + "\n")


def read_sessions(run: RunFolder) -> list[Session]:
    """The sessions of a run, oldest first.

    Raises:
        RunFolderError: There is no timing.json, or it is damaged.
    """
    if not run.timing.is_file():
        raise RunFolderError(
            f"{run.path} has no {run.timing.name}: it is no run, has not ended yet, or was trained by an earlier "
            "revision; train it again"
        )
    return [Session(**one) for one in _read(run.timing)]


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        sessions = json.loads(file.read_text(encoding="utf-8"))["sessions"]
        assert all(one.keys() == {"began", "seconds"} for one in sessions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise RunFolderError(f"{file} is damaged ({error}); remove it") from error
    return list(sessions)
