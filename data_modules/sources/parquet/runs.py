"""Row groups of files in a store, kept on a local disk while a shuffle window needs them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_modules.sources.blobs import MAX_GAP_BYTES, Span, merge_spans
from data_modules.sources.parquet.files import ParquetFiles, chunk_span
from data_modules.sources.parquet.row_groups import Place
from data_modules.sources.run_cache import Run, RunCache

_KEPT_RUNS = 8192
"""Descriptions of row groups that a process keeps, of about 300 bytes each."""


class GroupRuns:
    """The row groups of files as runs, of which each is read once per machine.

    Args:
        files: Their footers.
        columns: Those that are read.
        cache: Keeps them.
    """

    def __init__(self, files: ParquetFiles, columns: Sequence[str], cache: RunCache) -> None:
        self._files, self._columns, self._cache = files, list(columns), cache
        self._known: dict[int, Run] = {}

    def prefetch(self, groups: NDArray[np.int64]) -> None:
        """Begin to read row groups."""
        self._cache.prefetch([self._run(group) for group in np.unique(groups).tolist()])

    def place(self, groups: NDArray[np.int64]) -> Place:
        """Where the bytes of row groups are, which are read now unless they are there."""
        runs = {group: self._run(group) for group in np.unique(groups).tolist()}
        files = self._cache.require([*runs.values()])

        def placed(group: int, span: Span) -> Span:
            file, start = files.get(runs[group]), runs[group].place_of(span)
            return span if file is None or start is None else Span(str(file), start, span.length)

        return placed

    def _run(self, group: int) -> Run:
        if (known := self._known.get(group)) is not None:
            return known
        while len(self._known) >= _KEPT_RUNS:
            del self._known[next(iter(self._known))]
        file = self._files.file_of(group)
        leaves = [leaf for column in self._columns for leaf in self._files.leaves_of(column, file)]
        spans = [chunk_span(self._files, leaf.path, group) for leaf in leaves]
        merged = tuple(whole for whole, _ in merge_spans(spans, MAX_GAP_BYTES))
        found = self._known[group] = Run(merged, self._files.states[file].version)
        return found
