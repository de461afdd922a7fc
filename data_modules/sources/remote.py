"""Reads of stores and network file systems: at the same time, with a limit, timeouts and retries."""

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import fsspec

from data_modules.paths import is_url

ATTEMPTS = 4
"""Attempts at a remote read before it fails."""
FIRST_PAUSE_SECONDS = 0.5
"""Pause before the second attempt; doubles each time."""
TIMEOUT_SECONDS = 60.0
"""Longest duration of one remote read, unless the source sets another."""
_CONNECTIONS = 256
"""Connections of a process to an S3 store; botocore's default of 10 would limit the reads in flight."""
_S3 = ("s3", "s3a")


def open_filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it; the same one for every URL of a store."""
    options: dict[str, Any] = {}
    if (protocol := path.partition("://")[0]) in _S3:
        own = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        options["config_kwargs"] = {"max_pool_connections": _CONNECTIONS} | own
    filesystem, inner = fsspec.core.url_to_fs(path, **options)
    return filesystem, inner


def remote_info(path: str, timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """What a store tells about a file; it is asked anew each time.

    Raises:
        FileNotFoundError: There is no such file.
        Exception: The store cannot be reached; every filesystem has its own errors.
    """
    filesystem, inner = open_filesystem(path)
    info: dict[str, Any] = with_retries(lambda: filesystem.info(inner, refresh=True), timeout=timeout)
    return info


class ConcurrentReads:
    """Begins reads, of which a limited number is in flight; belongs to one process.

    Args:
        timeout: Seconds of one attempt at a remote read before it is abandoned and tried again.
        in_flight: Reads at a time.
    """

    def __init__(self, timeout: float, in_flight: int) -> None:
        self._timeout, self._in_flight = timeout, in_flight
        self._gate: asyncio.Semaphore | None = None
        self._threads: ThreadPoolExecutor | None = None

    def start(self, path: str, start: int, length: int, attempts: int = ATTEMPTS) -> "Future[bytes]":
        """The bytes [start, start + length) of a URL, or of a file on a network file system; fewer at its end.

        Its errors are those of the last attempt, or TimeoutError.
        """
        if not is_url(path):
            return self._submit(functools.partial(_read_file, path, start, length), attempts)
        filesystem, inner = open_filesystem(path)
        if filesystem.async_impl:
            cut = functools.partial(filesystem._cat_file, inner, start=start, end=start + length)
            return asyncio.run_coroutine_threadsafe(self._read(cut, attempts), filesystem.loop)
        return self._submit(functools.partial(filesystem.cat_file, inner, start=start, end=start + length), attempts)

    async def _read(self, cut: Callable[[], Any], attempts: int) -> bytes:
        if self._gate is None:
            self._gate = asyncio.Semaphore(self._in_flight)
        pause = FIRST_PAUSE_SECONDS
        for left in range(attempts - 1, -1, -1):
            try:
                async with self._gate:
                    return bytes(await asyncio.wait_for(cut(), self._timeout))
            except FileNotFoundError:
                raise
            except TimeoutError as error:
                if not left:
                    raise TimeoutError(f"no answer within {self._timeout:g} s") from error
            except Exception:
                if not left:
                    raise
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError("there is at least one attempt")

    def _submit(self, call: Callable[[], Any], attempts: int) -> "Future[bytes]":
        """A call in a thread, for filesystems without asynchronous reads."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._in_flight, thread_name_prefix="reads")
        return self._threads.submit(lambda: bytes(with_retries(call, attempts, self._timeout)))


def _read_file(path: str, start: int, length: int) -> bytes:
    """A range of a file, opened anew: after ESTALE an old descriptor is of no use."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        return pread_whole(descriptor, start, length)
    finally:
        os.close(descriptor)


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


def pread_whole(descriptor: int, start: int, length: int) -> bytes:
    """The bytes [start, start + length) of an open file; fewer at its end. A single `pread` may give fewer before it.

    Raises:
        OSError: They cannot be read.
    """
    found = os.pread(descriptor, length, start)
    while len(found) < length and (more := os.pread(descriptor, length - len(found), start + len(found))):
        found += more
    return found
