"""Pairs from tar shards in the WebDataset layout, by random access through an index."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault, encodable, printable
from data_modules.paths import resolve_shards
from data_modules.records import PairRecord
from data_modules.sources.blobs import BlobReader
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


class TarSource:
    """Random access to the pairs of shards, in the order of the shards and of the images in them.

    Raises:
        DataError: The index cannot be written, or no sample is usable.
    """

    def __init__(
        self, name: str, config: SourceConfig, *, num_workers: int = 1, progress: Progress | None = None
    ) -> None:
        self.name = name
        self.config = config
        shards = resolve_shards(config.files)
        self.index: ShardIndex = open_index(config, shards, num_workers=num_workers, progress=progress)
        if not len(self.index):
            faults = self.opening_faults()
            first = f"; the first problem: {faults[0].kind} in {faults[0].key} ({faults[0].detail})" if faults else ""
            raise DataError(f"source '{name}' has no usable sample in {len(shards)} shard(s){first}")
        self._pairs = pairs_per_row(config)
        self._language_rows = LanguageRows(config, len(self), self._marks)
        fields = set(text_fields(config))
        self._texts: Kinds = [(TEXT, 2)] * (TEXT in fields) + [(JSON, 4)] * bool(fields - {TEXT})
        self._reader = BlobReader(config.read_timeout_seconds)

    def __len__(self) -> int:
        return len(self.index) * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        return single_record(self.records([index]))

    def records(self, indices: Sequence[int]) -> list[PairRecord | SampleFault]:
        rows = self._rows([index // self._pairs for index in indices], [("image", 0), *self._texts])
        by_index = dict(zip(indices, rows, strict=True))
        return records_one_by_one(lambda index: self._record(by_index[index], index % self._pairs), indices)

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
            entries, shards = self.index.take(wanted), self.index.shards_of(wanted)
        except SampleFault as fault:
            return [fault] if len(numbers) == 1 else [self._rows([number], kinds)[0] for number in numbers]
        paths = [self.index.shards[shard] for shard in shards]
        found: list[list[_Member] | SampleFault] = [[] for _ in numbers]
        for place in np.lexsort((entries[:, 0], shards)).tolist():  # as they follow each other on the disk
            try:
                found[place] = self._members(paths[place], entries[place].tolist(), kinds)
            except SampleFault as fault:
                found[place] = fault
        places = [f"{path}#{block}" for path, block in zip(paths, entries[:, 0].tolist(), strict=True)]
        return [_row(*one) for one in zip(found, _are_unchanged(found), paths, places, strict=True)]

    def _members(self, shard: str, entry: Sequence[int], kinds: Kinds) -> list[_Member]:
        """The members of these kinds that a row of the index describes, not checked.

        Raises:
            SampleFault: They cannot be read.
        """
        described = [(kind, entry[at] * BLOCK, entry[at + 1] & MAX_TEXT_BYTES) for kind, at in kinds]
        spans = [span for span in described if span[2] or span[0] == "image"]
        if not spans:
            return []
        first = min(start for _, start, _ in spans)
        length = max(start + BLOCK + size for _, start, size in spans) - first
        if length > sum(BLOCK + size for _, _, size in spans) + _MAX_GAP_BYTES:
            parts = [self._reader.read(shard, start, BLOCK + size) for _, start, size in spans]
            pairs = zip(spans, parts, strict=True)
            return [_Member(kind, size, part[:BLOCK], part[BLOCK:]) for (kind, _, size), part in pairs]
        part = self._reader.read(shard, first, length)
        ends = [(kind, size, start + BLOCK - first) for kind, start, size in spans]
        return [_Member(kind, size, part[end - BLOCK : end], part[end : end + size]) for kind, size, end in ends]

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language; reads the index once if the settings do not give it."""
        return self._language_rows.of(language)

    def _marks(self, start: int, stop: int) -> NDArray[Any]:
        return (self.index.rows(start, stop)[:, 3] >> np.uint32(LANGUAGE_SHIFT)).astype(np.int64) - 1

    def pairs(self) -> Rows:
        """All indices: which captions are empty is known only when they are read."""
        return EveryNth(0, 1, len(self))

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        for start in range(0, len(self.index), every * _ROWS_AT_A_TIME):
            numbers = range(start, min(start + every * _ROWS_AT_A_TIME, len(self.index)), every)
            for row in self._rows(numbers, self._texts):
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


def _row(found: list[_Member] | SampleFault, is_unchanged: bool, shard: str, place: str) -> _Row | SampleFault:
    """A row from its members, which are looked at more closely unless they are unchanged at first sight."""
    try:
        if isinstance(found, SampleFault):
            raise found
        if not is_unchanged:
            for one in found:
                check_member(shard, one.header, one.content, one.size)
        by_kind = {one.kind: one for one in found}
        text, metadata = (by_kind[kind].content if kind in by_kind else None for kind in (TEXT, JSON))
        fields = parse_row(text, metadata)
    except SampleFault as fault:
        return SampleFault(fault.kind, fault.detail, place)
    image = by_kind.get("image")
    return _Row(header_name(image.header), image.content, fields) if image else _Row("", b"", fields)
