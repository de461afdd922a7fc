"""Which bytes of the shards make a run of samples, and where a sample is once its run is on the local disk."""

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.paths import is_url
from data_modules.sources.blobs import Span
from data_modules.sources.config import SourceConfig
from data_modules.sources.rows import pairs_per_row
from data_modules.sources.run_cache import Run, RunCache
from data_modules.sources.tar_index import ShardIndex
from data_modules.sources.tar_scan import BLOCK, MAX_TEXT_BYTES

CACHED_WINDOWS = 2.5
"""Windows that the files of a cache may hold: the one being used, the next, and what their ends share."""
_MAX_WASTE = 4
"""A run is read as a whole if its spans are at most so many times as long as its members."""
_KEPT_RUNS = 8192
"""Descriptions of runs that a process keeps, of about 300 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Order of the samples of a source, where it is shuffled by windows."""

    samples: int
    """Samples that are shuffled together."""
    run_length: int
    """Neighbours that are shuffled as one."""


class TarRuns:
    """The runs of an index and their files.

    Args:
        index: Of the shards.
        fields: Numbers of the fields in a row of the index where its members begin.
        rows_per_run: Samples of a run.
        cache: Their files.
    """

    def __init__(self, index: ShardIndex, fields: Sequence[int], rows_per_run: int, cache: RunCache) -> None:
        self._index, self._fields, self._rows_per_run, self.cache = index, list(fields), rows_per_run, cache
        self._known: OrderedDict[int, Run | None] = OrderedDict()

    def prefetch(self, numbers: NDArray[np.int64]) -> None:
        """Begin to read the runs of these rows.

        Raises:
            SampleFault: The index can no longer be read.
        """
        wanted = np.unique(numbers // self._rows_per_run).tolist()
        self.cache.prefetch([run for run in map(self._run, wanted) if run is not None])

    def kept(self, numbers: Sequence[int], spans: Sequence[Span]) -> list[Span]:
        """Where spans are in the files of their runs, which are read now unless they are there; else as they are.

        Args:
            numbers: Row of each span.
            spans: Parts of the shards.
        """
        runs = [self._run(number // self._rows_per_run) for number in numbers]
        files = self.cache.require([run for run in runs if run is not None])
        return [
            self._in_file(run, files.get(run), span) if run else span for run, span in zip(runs, spans, strict=True)
        ]

    @staticmethod
    def _in_file(run: Run, file: Path | None, span: Span) -> Span:
        place = run.place_of(span)
        return span if file is None or place is None else Span(str(file), place, span.length)

    def _run(self, number: int) -> Run | None:
        """A run by its number; `None`: its members lie too far apart to be read together."""
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        self._known[number] = found = self._describe(number)
        if len(self._known) > _KEPT_RUNS:
            self._known.popitem(last=False)
        return found

    def _describe(self, number: int) -> Run | None:
        first = number * self._rows_per_run
        rows = np.arange(first, min(first + self._rows_per_run, len(self._index)), dtype=np.int64)
        entries = self._index.take(rows).astype(np.int64)
        starts = entries[:, self._fields] * BLOCK
        sizes = entries[:, [field + 1 for field in self._fields]] & MAX_TEXT_BYTES
        is_there = (sizes > 0) | (np.array(self._fields) == 0)
        ends = starts + BLOCK + sizes
        shards, spans = self._index.shards_of(rows), []
        for shard in np.unique(shards).tolist():
            here = is_there & (shards == shard)[:, None]
            begin, end = int(starts[here].min()), int(ends[here].max())
            spans.append(Span(self._index.shards[shard], begin, end - begin))
        used = int((ends - starts)[is_there].sum())
        if sum(span.length for span in spans) > _MAX_WASTE * used:
            return None
        versions = [self._index.entries[shard]["version"] for shard in np.unique(shards).tolist()]
        return Run(tuple(spans), repr(versions))


def open_runs(
    config: SourceConfig, index: ShardIndex, kinds: Sequence[tuple[str, int]], window: Window
) -> TarRuns | None:
    """The runs of shards in a store; `None`: they are local, or samples are not shuffled by windows.

    Args:
        config: Settings of the source.
        index: Of its shards.
        kinds: Kinds of members, each with its first field in a row of the index.
        window: Its order.

    Raises:
        DataError: The disk of the cache has no room for them.
    """
    if not window.samples or not any(map(is_url, index.shards)):
        return None
    rows_per_run = max(1, window.run_length // pairs_per_row(config))
    folder = Path(config.cache_folder).expanduser() if config.cache_folder else default_cache_folder()
    folder /= index.file.stem  # two sources must not take one another's room
    needed = cache_bytes(config, index, window)
    check_room(folder, needed, window)
    cache = RunCache(folder, needed, timeout=config.read_timeout_seconds, in_flight=config.reads_in_flight)
    return TarRuns(index, [field for _, field in kinds], rows_per_run, cache)


def check_room(folder: Path, needed: int, window: Window) -> None:
    """Raises DataError unless a folder, which need not exist, may grow to this many bytes."""
    present = sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
    parent = next(one for one in (folder, *folder.parents) if one.is_dir())
    room = shutil.disk_usage(parent).free + present
    if room < needed:
        raise DataError(
            f"the runs of order.shuffle_window = {window.samples:,} need {needed / 1e9:,.1f} GB in {folder}, whose "
            f"disk has room for {room / 1e9:,.1f} GB: set the source's cache_folder to a larger local disk, or a "
            "smaller shuffle_window"
        )


def default_cache_folder() -> Path:
    """A folder of this user in that for temporary files, which is on a local disk."""
    import getpass

    return Path(tempfile.gettempdir()) / f"kelip-runs-{getpass.getuser()}"


def cache_bytes(config: SourceConfig, index: ShardIndex, window: Window) -> int:
    """Bytes of the runs that a machine keeps of a source."""
    rows = min(len(index), -(-window.samples // pairs_per_row(config)) + window.run_length)
    whole = sum(max(0, entry["size"]) for entry in index.entries)
    return int(min(whole, CACHED_WINDOWS * rows * whole / max(1, len(index))) + (64 << 20))
