"""Pairs from tar shards in the WebDataset layout, by random access through an index."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault, encodable, printable
from data_modules.paths import resolve_shards
from data_modules.records import PairRecord
from data_modules.sources.blobs import BlobReader, Span
from data_modules.sources.config import SourceConfig
from data_modules.sources.languages import LanguageRows
from data_modules.sources.rows import (
    EveryNth,
    Rows,
    make_record,
    pairs_per_row,
    records_one_by_one,
    row_texts,
    single_record,
    text_fields,
)
from data_modules.sources.tar_index import Progress, ShardIndex, open_index
from data_modules.sources.tar_runs import Window, open_runs
from data_modules.sources.tar_scan import (
    BLOCK,
    JSON,
    LANGUAGE_SHIFT,
    MAX_TEXT_BYTES,
    TEXT,
    are_plain_headers,
    check_member,
    header_name,
    parse_row,
)

_MAX_GAP_BYTES = 64 * 1024
"""Members of a sample with at most this much between them are read at once."""
_ROWS_AT_A_TIME = 256
"""Rows whose texts are read together."""

Kinds = Sequence[tuple[str, int]]
"""Kinds of members, each with its first field in a row of the index."""


class _Member(NamedTuple):
    """A member of a shard as it was read: fewer bytes if the shard ends in it."""

    kind: str
    size: int
    """Bytes by the index."""
    header: bytes
    content: bytes


class _Row(NamedTuple):
    """The members of one sample, checked; those that were not asked for are empty."""

    name: str
    """Of the image."""
    image: bytes
    fields: dict[str, Any]


class _Plan(NamedTuple):
    """How the members of one sample are read."""

    position: tuple[int, int]
    """Number of the shard, block of the image."""
    path: str
    described: list[tuple[str, int, int]]
    """Kind of each member, byte of its header, size."""
    spans: list[Span]
    """One that holds all members, or one for each."""

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.path}#{self.position[1]}"

    def members(self, parts: Sequence[bytes | SampleFault]) -> list[_Member] | SampleFault:
        """The members, not checked, from the bytes of the spans; a fault if one of these could not be read."""
        found = []
        for number, (kind, start, size) in enumerate(self.described):
            span, part = (self.spans[number], parts[number]) if len(parts) > 1 else (self.spans[0], parts[0])
            if isinstance(part, SampleFault):
                return part
            end = start + BLOCK - span.start
            found.append(_Member(kind, size, part[end - BLOCK : end], part[end : end + size]))
        return found


def _plan(number: int, path: str, entry: Sequence[int], kinds: Kinds) -> _Plan:
    """How the members of these kinds that a row of the index describes are read, in the shard of this number."""
    described = [(kind, entry[at] * BLOCK, entry[at + 1] & MAX_TEXT_BYTES) for kind, at in kinds]
    described = [one for one in described if one[2] or one[0] == "image"]
    spans = [Span(path, start, BLOCK + size) for _, start, size in described]
    if len(spans) > 1:
        first = min(span.start for span in spans)
        length = max(span.start + span.length for span in spans) - first
        if length <= sum(span.length for span in spans) + _MAX_GAP_BYTES:
            spans = [Span(path, first, length)]
    return _Plan((number, entry[0]), path, described, spans)


class TarSource:
    """Random access to the pairs of shards, in the order of the shards and of the images in them.

    Args:
        name: The source's key in the configuration.
        config: Its settings.
        num_workers: Processes that build the index.
        progress: Told of every shard that was scanned.
        window: How the samples are shuffled; `None`: not known, so that no run is kept on the disk.
        index: Of the shards; `None`: it is opened here, and built first if there is none.

    Raises:
        DataError: The index cannot be written, or no sample is usable.
    """

    def __init__(
        self,
        name: str,
        config: SourceConfig,
        *,
        num_workers: int = 1,
        progress: Progress | None = None,
        window: Window | None = None,
        index: ShardIndex | None = None,
    ) -> None:
        self.name = name
        self.config = config
        if index is None:
            index = open_index(config, resolve_shards(config.files), num_workers=num_workers, progress=progress)
        self.index: ShardIndex = index
        if not len(self.index):
            faults = self.opening_faults()
            first = f"; the first problem: {faults[0].kind} in {faults[0].key} ({faults[0].detail})" if faults else ""
            raise DataError(f"source '{name}' has no usable sample in {len(index.shards)} shard(s){first}")
        self._pairs = pairs_per_row(config)
        self._language_rows = LanguageRows(config, len(self), self._marks)
        fields = set(text_fields(config))
        self._texts: Kinds = [(TEXT, 2)] * (TEXT in fields) + [(JSON, 4)] * bool(fields - {TEXT})
        self._all: Kinds = [("image", 0), *self._texts]
        self._reader = BlobReader(config.read_timeout_seconds, config.reads_in_flight)
        self._runs = open_runs(config, self.index, self._all, window) if window is not None else None

    def __len__(self) -> int:
        return len(self.index) * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        return single_record(self.records([index]))

    def records(self, indices: Sequence[int]) -> list[PairRecord | SampleFault]:
        rows = self._rows([index // self._pairs for index in indices], self._all)
        by_index = dict(zip(indices, rows, strict=True))
        return records_one_by_one(lambda index: self._record(by_index[index], index % self._pairs), indices)

    @functools.cached_property
    def reads_ahead(self) -> bool:
        """Whether shards are in a store or on a network file system."""
        one_of_each_folder = {os.path.dirname(shard): shard for shard in self.index.shards}
        return any(map(self._reader.is_slow, one_of_each_folder.values()))

    def prefetch(self, indices: Sequence[int]) -> None:
        numbers = np.unique(np.array(indices, dtype=np.int64) // self._pairs)
        with contextlib.suppress(SampleFault):  # told when the samples are read
            if self._runs is not None:
                self._runs.prefetch(numbers)
            else:
                self._reader.prefetch([span for plan in self._plans(numbers, self._all) for span in plan.spans])

    def close(self) -> None:
        """Write nothing to the cache of runs any more, so that its folder can be removed."""
        if self._runs is not None:
            self._runs.cache.close()

    def _record(self, row: _Row | SampleFault, pair: int) -> PairRecord:
        if isinstance(row, SampleFault):
            raise row
        folder, slash, base = row.name.rpartition("/")
        key = encodable(folder + slash + base.partition(".")[0])
        return make_record(self.config, key=key, image=row.image, row=row.fields, pair=pair, file_name=row.name)

    def _rows(self, numbers: Sequence[int], kinds: Kinds) -> list[_Row | SampleFault]:
        """The rows with these numbers, of which members of these kinds are read; for one that is faulty, its fault."""
        wanted = np.array(numbers, dtype=np.int64)
        try:
            plans = self._plans(wanted, kinds)
        except SampleFault as fault:
            return [fault] if len(numbers) == 1 else [self._rows([number], kinds)[0] for number in numbers]
        in_order = sorted(range(len(plans)), key=lambda place: plans[place].position)  # as they are on the disk
        parts = iter(self._read([(numbers[place], span) for place in in_order for span in plans[place].spans], kinds))
        found: list[list[_Member] | SampleFault] = [[] for _ in numbers]
        for place in in_order:
            found[place] = plans[place].members([next(parts) for _ in plans[place].spans])
        are_unchanged = _are_unchanged(found)
        return [_row(*one) for one in zip(found, are_unchanged, plans, strict=True)]

    def _plans(self, numbers: NDArray[np.int64], kinds: Kinds) -> list[_Plan]:
        """How the members of these kinds are read, for each row.

        Raises:
            SampleFault: The index can no longer be read.
        """
        entries, shards = self.index.take(numbers), self.index.shards_of(numbers)
        paths = self.index.shards
        return [
            _plan(shard, paths[shard], entry, kinds)
            for shard, entry in zip(shards.tolist(), entries.tolist(), strict=True)
        ]

    def _read(self, wanted: Sequence[tuple[int, Span]], kinds: Kinds) -> list[bytes | SampleFault]:
        """The bytes of spans, each with the number of its row."""
        spans = [span for _, span in wanted]
        if self._runs is None or kinds is not self._all:
            return self._reader.read_many(spans)
        found = self._reader.read_many(self._runs.kept([number for number, _ in wanted], spans))
        # A file that made room for others in the meantime: the store still has the bytes.
        lost = [place for place, one in enumerate(found) if isinstance(one, SampleFault)]
        for place, again in zip(lost, self._reader.read_many([spans[place] for place in lost]), strict=True):
            found[place] = again
        return found

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language; reads the index once if the settings do not give it."""
        return self._language_rows.of(language)

    def _marks(self, start: int, stop: int) -> NDArray[Any]:
        return (self.index.rows(start, stop)[:, 3] >> np.uint32(LANGUAGE_SHIFT)).astype(np.int64) - 1

    def pairs(self) -> Rows:
        """All indices: which captions are empty is known only when they are read."""
        return EveryNth(0, 1, len(self))

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        length, stride = len(self.index), every * _ROWS_AT_A_TIME
        blocks = [range(start, min(start + stride, length), every) for start in range(0, length, stride)]
        for number, numbers in enumerate(blocks):
            if self.reads_ahead and number + 1 < len(blocks):
                following = np.array(blocks[number + 1], dtype=np.int64)
                with contextlib.suppress(SampleFault):  # told when the rows are read
                    self._reader.prefetch([span for plan in self._plans(following, self._texts) for span in plan.spans])
            for row in self._rows(numbers, self._texts):
                if isinstance(row, SampleFault) and row.kind == "read_failed":
                    # Left out, it would change the tokenizer, and with it the token ids of all captions.
                    raise DataError(
                        f"source '{self.name}': a caption cannot be read ({row.detail}); run the command again when "
                        "the shards can be reached, or leave the damaged one out of `files`"
                    )
                if not isinstance(row, SampleFault):
                    yield from row_texts(self.config, row.fields)

    def texts(self, count: int) -> Iterator[Mapping[str, Any]]:
        """The text fields of up to `count` evenly spaced samples, without their images."""
        numbers = range(0, len(self.index), max(1, -(-len(self.index) // count)))
        return (row.fields for row in self._rows(numbers, self._texts) if not isinstance(row, SampleFault))

    def opening_faults(self) -> list[FaultReport]:
        """Members and samples that the index leaves out."""
        return [
            FaultReport(kind, self.name, printable(key), -1, -1, printable(f"{entry['path']}: {detail}"))
            for entry in self.index.entries
            for kind, key, detail in entry["faults"]
        ]


def _are_unchanged(found: Sequence[list[_Member] | SampleFault]) -> list[bool]:
    """Whether the headers of each row's members are, at first sight, those that the index describes."""
    members = [(place, one) for place, row in enumerate(found) if isinstance(row, list) for one in row]
    headers = b"".join(one.header.ljust(BLOCK, b"\0") for _, one in members)
    are_plain = are_plain_headers(headers, np.array([one.size for _, one in members], dtype=np.int64))
    unchanged = [True] * len(found)
    for (place, one), is_plain in zip(members, are_plain.tolist(), strict=True):
        unchanged[place] &= is_plain and len(one.content) == one.size
    return unchanged


def _row(found: list[_Member] | SampleFault, is_unchanged: bool, plan: _Plan) -> _Row | SampleFault:
    """A row from its members, which are looked at more closely unless they are unchanged at first sight."""
    try:
        if isinstance(found, SampleFault):
            raise found
        if not is_unchanged:
            for one in found:
                check_member(plan.path, one.header, one.content, one.size)
        by_kind = {one.kind: one for one in found}
        text, metadata = (by_kind[kind].content if kind in by_kind else None for kind in (TEXT, JSON))
        fields = parse_row(text, metadata)
    except SampleFault as fault:
        return SampleFault(fault.kind, fault.detail, plan.place)
    image = by_kind.get("image")
    return _Row(header_name(image.header), image.content, fields) if image else _Row("", b"", fields)
