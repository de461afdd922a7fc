"""Random access to bytes of files, local or on any fsspec filesystem; remote reads are retried."""

import functools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import fsspec

from data_modules.faults import SampleFault
from data_modules.paths import is_url

MAX_OPEN_FILES = 64
"""Local files that a reader keeps open."""
ATTEMPTS = 4
"""Attempts at a remote read before it fails."""
FIRST_PAUSE_SECONDS = 0.5
"""Pause before the second attempt; doubles each time."""
TIMEOUT_SECONDS = 60.0
"""Longest duration of one remote read, unless the source sets another."""


class FileState(NamedTuple):
    """Size and version of a file: they change with its content."""

    size: int
    """Bytes."""
    version: str
    """Time of change (local, nanoseconds), or what the filesystem offers (ETag, ...); empty if nothing."""


def file_state(path: str, timeout: float = TIMEOUT_SECONDS) -> FileState:
    """State of a file; `timeout` in seconds, for each attempt on a remote one.

    Raises:
        OSError: It does not exist, or cannot be reached.
    """
    if not is_url(path):
        found = os.stat(path)
        return FileState(found.st_size, str(found.st_mtime_ns))
    filesystem, inner = fsspec.core.url_to_fs(path)
    info: dict[str, Any] = with_retries(lambda: filesystem.info(inner), timeout=timeout)
    version = next((info[name] for name in ("etag", "ETag", "mtime", "LastModified", "created") if name in info), "")
    return FileState(int(info["size"]), str(version))


class BlobReader:
    """Reads ranges of files; safe to use in forked workers.

    Args:
        timeout: Seconds of one remote read before it is abandoned and tried again.
    """

    def __init__(self, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._process = os.getpid()
        self._open: OrderedDict[str, int] = OrderedDict()
        self._failed: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return BlobReader, (self._timeout,)  # descriptors are valid in one process only

    def read(self, path: str, start: int, length: int) -> bytes:
        """The bytes [start, start + length) of a file; fewer at its end.

        Raises:
            SampleFault: They cannot be read (`read_failed`). After a failure, a file gets one attempt per read.
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
            raise SampleFault("read_failed", f"{path}: {str(error) or type(error).__name__}") from error

    def _descriptor(self, path: str) -> int:
        if self._process != os.getpid():  # a fork gets its own table
            self._process, self._open = os.getpid(), OrderedDict()
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self._open[path] = descriptor
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return descriptor


def with_retries(call: Callable[[], Any], attempts: int = ATTEMPTS, timeout: float = TIMEOUT_SECONDS) -> Any:
    """The call's result; an error or a hang is retried after pauses that double.

    Raises:
        Exception: That of the last attempt, or TimeoutError.
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
    """The call's result. A call that hangs is abandoned in its daemon thread, since nothing can end it."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([answer], timeout=seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answer.result()
