"""Random access to bytes of files, local or on any fsspec filesystem: many ranges at once, ahead of time, with retries.

Ranges of a local disk are read one after the other. Those of a store or a network file system, where a read waits for
an answer, are merged with their neighbours and read at the same time.
"""

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from data_modules.faults import SampleFault
from data_modules.paths import is_url
from data_modules.sources.mounts import is_on_network
from data_modules.sources.remote import (
    ATTEMPTS,
    FIRST_PAUSE_SECONDS,
    TIMEOUT_SECONDS,
    ConcurrentReads,
    pread_whole,
    remote_info,
)

MAX_OPEN_FILES = 64
"""Local files that a reader keeps open."""
IN_FLIGHT = 32
"""Reads of a store or a network file system at a time, unless the source sets another number."""
MAX_GAP_BYTES = 128 * 1024
"""Ranges of one file with at most this much between them are one read of a store: about what it sends in the time that
a request waits."""
_TRANSIENT = frozenset({errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.EREMOTEIO})
"""Errors of a network file system that another descriptor may not have."""


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
    info = remote_info(path, timeout)
    version = next((info[name] for name in ("etag", "ETag", "mtime", "LastModified", "created") if name in info), "")
    return FileState(int(info["size"]), str(version))


class Span(NamedTuple):
    """The bytes [start, start + length) of a file."""

    path: str
    start: int
    length: int


class _Begun(NamedTuple):
    """A span that is being read, as a part of a larger one."""

    whole: "Future[bytes]"
    offset: int
    """Of the span in it."""


class BlobReader:
    """Reads ranges of files; safe to use in forked workers.

    Args:
        timeout: Seconds of one remote read before it is abandoned and tried again.
        in_flight: Reads of a store or a network file system at a time.
        max_gap: Bytes between two ranges of one file that are read along with them there.
    """

    def __init__(
        self, timeout: float = TIMEOUT_SECONDS, in_flight: int = IN_FLIGHT, max_gap: int = MAX_GAP_BYTES
    ) -> None:
        self._timeout, self._in_flight, self._max_gap = timeout, in_flight, max_gap
        self._failed: set[str] = set()
        self._begin_in_this_process()

    def _begin_in_this_process(self) -> None:
        """Descriptors, threads and event loops belong to one process; a fork gets its own."""
        self._process = os.getpid()
        self._open: OrderedDict[str, int] = OrderedDict()
        self._reads = ConcurrentReads(self._timeout, self._in_flight)
        # What two calls of `prefetch` have begun: that of the batch being made, and that of the next.
        self._begun: dict[Span, _Begun] = {}
        self._begun_before: dict[Span, _Begun] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return BlobReader, (self._timeout, self._in_flight, self._max_gap)

    def is_slow(self, path: str) -> bool:
        """Whether each read of a file waits for an answer: it is in a store, or on a network file system."""
        return is_url(path) or is_on_network(path)

    def read(self, path: str, start: int, length: int) -> bytes:
        """The bytes [start, start + length) of a file; fewer at its end.

        Raises:
            SampleFault: They cannot be read (`read_failed`). After a failure, a file gets one attempt per read.
        """
        (found,) = self.read_many([Span(path, start, length)])
        if isinstance(found, SampleFault):
            raise found
        return found

    def read_many(self, spans: Sequence[Span]) -> list[bytes | SampleFault]:
        """The bytes of every span, as `read`, or the fault in their place; spans that were prefetched are waited for.

        Args:
            spans: In an order that suits a disk.
        """
        self._notice_fork()
        begun = self._start([span for span in spans if self.is_slow(span.path)])
        return [self._result(span, begun[span]) if span in begun else self._local(span) for span in spans]

    def prefetch(self, spans: Sequence[Span]) -> None:
        """Begin to read the spans in a store or on a network file system; `read_many` then takes them.

        What has not been taken when this was called twice more is dropped.
        """
        self._notice_fork()
        self._begun_before, self._begun = self._begun, {}
        self._begun = self._start([span for span in spans if self.is_slow(span.path)])

    def _notice_fork(self) -> None:
        if self._process != os.getpid():
            self._begin_in_this_process()

    def _start(self, spans: Sequence[Span]) -> dict[Span, _Begun]:
        """The reads of these spans, begun now unless `prefetch` has."""
        begun: dict[Span, _Begun] = {}
        for span in spans:
            if (earlier := self._begun.pop(span, None) or self._begun_before.pop(span, None)) is not None:
                begun[span] = earlier
        for whole, parts in merge_spans([span for span in spans if span not in begun], self._max_gap):
            attempts = 1 if whole.path in self._failed else ATTEMPTS
            answer = self._reads.start(whole.path, whole.start, whole.length, attempts)
            begun |= {part: _Begun(answer, part.start - whole.start) for part in parts}
        return begun

    def _result(self, span: Span, begun: _Begun) -> bytes | SampleFault:
        try:
            whole = begun.whole.result()
        except Exception as error:  # every filesystem has its own errors
            return self._fault(span.path, error)
        if len(whole) == span.length and not begun.offset:
            return whole
        return whole[begun.offset : begun.offset + span.length]

    def _local(self, span: Span) -> bytes | SampleFault:
        try:
            return self._pread(span)
        except OSError as error:
            return self._fault(span.path, error)

    def _fault(self, path: str, error: Exception) -> SampleFault:
        self._failed.add(path)
        fault = SampleFault("read_failed", f"{path}: {str(error) or type(error).__name__}")
        fault.__cause__ = error
        return fault

    def _pread(self, span: Span) -> bytes:
        """The bytes of a local span.

        Raises:
            OSError: They cannot be read, with new descriptors either if the error is one of `_TRANSIENT`.
        """
        pause = FIRST_PAUSE_SECONDS
        for left in range(0 if span.path in self._failed else ATTEMPTS - 1, -1, -1):
            try:
                return pread_whole(self._descriptor(span.path), span.start, span.length)
            except OSError as error:
                self._forget(span.path)
                if error.errno not in _TRANSIENT or not left:
                    raise
            time.sleep(pause)
            pause *= 2
        raise AssertionError("there is at least one attempt")

    def _descriptor(self, path: str) -> int:
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self._open[path] = descriptor
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return descriptor

    def _forget(self, path: str) -> None:
        if (descriptor := self._open.pop(path, None)) is not None:
            os.close(descriptor)


def merge_spans(spans: Sequence[Span], max_gap: int) -> list[tuple[Span, list[Span]]]:
    """Spans of the same file with at most `max_gap` bytes between them as one, with the spans that it holds."""
    merged: list[tuple[Span, list[Span]]] = []
    for span in sorted(set(spans)):
        if merged:
            last, parts = merged[-1]
            if last.path == span.path and span.start <= last.start + last.length + max_gap:
                end = max(last.start + last.length, span.start + span.length)
                merged[-1] = (last._replace(length=end - last.start), [*parts, span])
                continue
        merged.append((span, [span]))
    return merged
