"""Runs of neighbouring samples of a store, kept on a local disk while a shuffle window needs them.

With `order.shuffle_window`, the samples of a run are drawn all over a window, by every loader process and rank of a
machine. Each run is read once per machine, by whichever process comes first, in one request for each shard that it
touches; the others wait for its file, or find it.
"""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from data_modules.file_locks import locked
from data_modules.sources.blobs import Span
from data_modules.sources.remote import ATTEMPTS, ConcurrentReads

_log = logging.getLogger(__name__)

_BACKGROUND_SHARE = 4
"""Of the reads in flight, one in so many may be ahead of time."""
_CHECK_EVERY = 16
"""Runs that a process reads between two looks at the size of the folder."""
_FREED_SHARE = 0.1
"""Of the limit, what a look frees below it, so that the next ones find room."""
_ABANDONED_SECONDS = 3600.0
"""Age of a file that was begun and never finished, because its process was killed."""
_PART, _LOCK = ".partial", ".lock"


class Run(NamedTuple):
    """Neighbouring samples as they lie in their shards."""

    spans: tuple[Span, ...]
    """One for each shard, in order."""
    version: str
    """Changes with the content of the shards."""

    @property
    def name(self) -> str:
        """Of its file: a digest of what it holds."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:32]

    def place_of(self, span: Span) -> int | None:
        """Where a part of one of the spans begins in the file; `None`: the run does not hold it."""
        before = 0
        for own in self.spans:
            if own.path == span.path and own.start <= span.start <= span.start + span.length <= own.start + own.length:
                return before + span.start - own.start
            before += own.length
        return None


class RunCache:
    """Files of runs in a folder that all processes of a machine share; the oldest ones make room for new ones.

    Args:
        folder: On a local disk; made if there is none.
        max_bytes: Size of the folder above which files are removed.
        timeout: Seconds of one remote read before it is abandoned and tried again.
        in_flight: Reads of this process at a time.
    """

    def __init__(self, folder: Path, max_bytes: int, *, timeout: float, in_flight: int) -> None:
        self.folder, self._max_bytes, self._timeout, self._in_flight = folder, max_bytes, timeout, in_flight
        self._process = -1

    def _notice_fork(self) -> None:
        """Threads belong to one process; a fork gets its own."""
        if self._process == os.getpid():
            return
        self._process, self._num_read, self._has_told = os.getpid(), 0, False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._reads = ConcurrentReads(self._timeout, self._in_flight)
        ahead = max(1, self._in_flight // _BACKGROUND_SHARE)
        self._urgent = ThreadPoolExecutor(self._in_flight, thread_name_prefix="runs")
        self._ahead = ThreadPoolExecutor(ahead, thread_name_prefix="runs-ahead")
        self._asked: dict[str, None] = {}

    def close(self) -> None:
        """Wait for the reads of this process that have begun, and drop the others; a later call begins anew."""
        if self._process != os.getpid():
            return
        for threads in (self._ahead, self._urgent):
            threads.shutdown(wait=True, cancel_futures=True)
        self._process = -1

    def __getstate__(self) -> dict[str, object]:
        kept = ("folder", "_max_bytes", "_timeout", "_in_flight")
        return {name: self.__dict__[name] for name in kept} | {"_process": -1}

    def file_of(self, run: Run) -> Path:
        """The file of a run, which need not be there."""
        return self.folder / run.name

    def prefetch(self, runs: Iterable[Run]) -> None:
        """Begin to read runs that are not there; those that this process has asked for lately are left out."""
        self._notice_fork()
        for run in runs:
            if run.name not in self._asked:
                self._asked[run.name] = None
                self._ahead.submit(self._try_to_fetch, run)
        while len(self._asked) > 100_000:
            del self._asked[next(iter(self._asked))]

    def require(self, runs: Sequence[Run]) -> dict[Run, Path | None]:
        """The files of runs, which are read now if they are not there; `None` for one that cannot be read or kept."""
        self._notice_fork()
        begun: dict[Run, Future[bool]] = {}
        for run in dict.fromkeys(runs):
            if not self.file_of(run).exists():
                begun[run] = self._urgent.submit(self._try_to_fetch, run)
        return {
            run: self.file_of(run) if run not in begun or begun[run].result() else None for run in dict.fromkeys(runs)
        }

    def _try_to_fetch(self, run: Run) -> bool:
        """Whether the run's file is there now; a reason why not is told once, and samples are then read one by one."""
        try:
            self._fetch(run)
        except Exception as error:  # every filesystem has its own errors, and this disk may be full
            if not self._has_told:
                _log.warning(
                    "a run cannot be read, or not be kept in %s (%s); its samples are read one by one",
                    self.folder,
                    error,
                )
            self._has_told = True
            return False
        return True

    def _fetch(self, run: Run) -> None:
        """Read a run into its file, unless it is there, or wait for another process that does.

        Raises:
            Exception: It cannot be read or written.
        """
        file = self.file_of(run)
        if file.exists():
            return
        with locked(file.with_suffix(_LOCK)):
            if file.exists():
                return
            answers = [self._reads.start(one.path, one.start, one.length, ATTEMPTS) for one in run.spans]
            partial = file.with_suffix(_PART)
            with partial.open("wb") as written:
                for answer, span in zip(answers, run.spans, strict=True):
                    content = answer.result()
                    if len(content) != span.length:
                        raise OSError(f"{span.path} ends before the samples that its index describes")
                    written.write(content)
            os.replace(partial, file)
        self._num_read += 1
        if self._num_read % _CHECK_EVERY == 1:
            self._make_room()

    def _make_room(self) -> None:
        """Remove the files that were written first while the folder is too large, and what killed processes left."""
        found = sorted(_files(self.folder))
        size, now = sum(one.size for one in found), time.time()
        kept = self._max_bytes * (1 - _FREED_SHARE) if size > self._max_bytes else self._max_bytes
        for one in found:
            is_unfinished = one.path.endswith((_PART, _LOCK))
            if (size > kept and not is_unfinished) or (is_unfinished and now - one.written > _ABANDONED_SECONDS):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(one.path)
                size -= one.size


class _File(NamedTuple):
    written: float
    size: int
    path: str


def _files(folder: Path) -> Iterator[_File]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                found = entry.stat()
                yield _File(found.st_mtime, found.st_size, entry.path)
