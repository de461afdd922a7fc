"""Bytes of files, local or on any fsspec filesystem, at random; with retries where a network lies between."""

import functools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import fsspec

from data_modules.faults import SampleFault
from data_modules.paths import is_url

MAX_OPEN_FILES = 64
"""Local files that a reader keeps open."""
ATTEMPTS = 4
"""Reads of a remote range before it counts as failed."""
FIRST_PAUSE_SECONDS = 0.5
"""Pause before the second attempt; doubles each time."""
TIMEOUT_SECONDS = 60.0
"""How long one remote read may take before it counts as hung, unless the source says otherwise."""


class FileState(NamedTuple):
    """What tells one content of a file from another without reading it."""

    size: int
    """Bytes."""
    version: str
    """Time of change (local, nanoseconds) or whatever the filesystem calls it; empty where it has nothing."""


def file_state(path: str, timeout: float = TIMEOUT_SECONDS) -> FileState:
    """Size and version of a file; `timeout` in seconds, for each attempt behind a URL.

    Raises:
        OSError: It is not there, or cannot be reached.
    """
    if not is_url(path):
        found = os.stat(path)
        return FileState(found.st_size, str(found.st_mtime_ns))
    filesystem, inner = fsspec.core.url_to_fs(path)
    info: dict[str, Any] = with_retries(lambda: filesystem.info(inner), timeout=timeout)
    version = next((info[name] for name in ("etag", "ETag", "mtime", "LastModified", "created") if name in info), "")
    return FileState(int(info["size"]), str(version))


class BlobReader:
    """Reads ranges of files; safe to carry into forked loader processes.

    Args:
        timeout: Seconds that one remote read may take before it is left behind and tried again.
    """

    def __init__(self, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._process = os.getpid()
        self._open: OrderedDict[str, int] = OrderedDict()
        self._failed: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {"timeout": self._timeout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # descriptors do not travel to another process

    def read(self, path: str, start: int, length: int) -> bytes:
        """The bytes [start, start + length) of a file; fewer where it ends before.

        Raises:
            SampleFault: They cannot be read (`read_failed`). A file that failed once is tried once only from then on.
        """
        try:
            if not is_url(path):
                return os.pread(self._descriptor(path), length, start)
            filesystem, inner = fsspec.core.url_to_fs(path)
            attempts = 1 if path in self._failed else ATTEMPTS
            cut = functools.partial(filesystem.cat_file, inner, start=start, end=start + length)
            return bytes(with_retries(cut, attempts, self._timeout))
        except Exception as error:  # every filesystem has its own errors
            self._failed.add(path)
            raise SampleFault("read_failed", f"{path}: {_told(error)}") from error

    def _descriptor(self, path: str) -> int:
        if self._process != os.getpid():  # a fork has its own table from here on
            self._process, self._open = os.getpid(), OrderedDict()
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self._open[path] = descriptor
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return descriptor


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def with_retries(call: Callable[[], Any], attempts: int = ATTEMPTS, timeout: float = TIMEOUT_SECONDS) -> Any:
    """The call's result; after an error or a hang it is tried again, with pauses that double.

    Raises:
        Exception: The last attempt's, or TimeoutError.
    """
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, attempts + 1):
        try:
            return _within(timeout, call)
        except FileNotFoundError:
            raise
        except Exception:
            if attempt == attempts:
                raise
            time.sleep(pause)
            pause *= 2
    raise AssertionError("there is at least one attempt")


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The call's result. A call that hangs is left behind in its daemon thread: nothing can end it."""
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:
            answers.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        worked, answer = answers.get(timeout=seconds)
    except Empty as error:
        raise TimeoutError(f"no answer within {seconds:g} s") from error
    if not worked:
        raise answer
    return answer
