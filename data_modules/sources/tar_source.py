"""Pairs from tar shards in the WebDataset layout, by random access through an index."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault, printable
from data_modules.paths import resolve_shards
from data_modules.records import PairRecord
from data_modules.sources.blobs import BlobReader
from data_modules.sources.config import SourceConfig
from data_modules.sources.languages import LanguageRows
from data_modules.sources.rows import Rows, make_record, pairs_per_row, row_texts, text_fields
from data_modules.sources.tar_index import Progress, ShardIndex, open_index
from data_modules.sources.tar_scan import (
    BLOCK,
    JSON,
    LANGUAGE_SHIFT,
    MAX_TEXT_BYTES,
    TEXT,
    member_content,
    parse_row,
)

_MAX_GAP_BYTES = 64 * 1024
"""Members of a sample with at most this much between them are read at once."""


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
        # Kind -> its first field in a row of the index.
        self._kinds = [("image", 0)]
        self._kinds += [(TEXT, 2)] if TEXT in fields else []
        self._kinds += [(JSON, 4)] if fields - {TEXT} else []
        self._reader = BlobReader(config.read_timeout_seconds)

    def __len__(self) -> int:
        return len(self.index) * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        number, pair = divmod(index, self._pairs)
        contents, fields = self._row(number, self._kinds)
        name, image = contents["image"]
        folder, slash, base = name.rpartition("/")
        key = folder + slash + base.partition(".")[0]
        return make_record(self.config, key=key, image=image, row=fields, pair=pair, file_name=name)

    def _row(
        self, number: int, kinds: Sequence[tuple[str, int]]
    ) -> tuple[dict[str, tuple[str, bytes]], dict[str, Any]]:
        """The members of these kinds (name and content each), and their fields."""
        shard = self.index.shard_of(number)
        row = self.index.rows(number, number + 1)[0].tolist()
        sizes = {kind: (row[at], row[at + 1] & MAX_TEXT_BYTES) for kind, at in kinds}
        spans = {kind: span for kind, span in sizes.items() if span[1] or kind == "image"}
        try:
            contents = self._read(shard, spans) if spans else {}
            text, metadata = (contents.get(kind, (None, None))[1] for kind in (TEXT, JSON))
            return contents, parse_row(text, metadata)
        except SampleFault as fault:
            raise SampleFault(fault.kind, fault.detail, f"{shard}#{row[0]}") from fault

    def _read(self, shard: str, spans: dict[str, tuple[int, int]]) -> dict[str, tuple[str, bytes]]:
        """Kind -> name and content of each member, each checked against its header.

        Args:
            shard: Path or URL.
            spans: Kind -> header block and size of the member.
        """
        first = min(block for block, _ in spans.values()) * BLOCK
        last = max((block + 1) * BLOCK + size for block, size in spans.values())
        needed = sum(BLOCK + size for _, size in spans.values())
        if last - first <= needed + _MAX_GAP_BYTES:
            whole = self._reader.read(shard, first, last - first)
            parts = {k: whole[b * BLOCK - first : (b + 1) * BLOCK - first + size] for k, (b, size) in spans.items()}
        else:
            parts = {k: self._reader.read(shard, b * BLOCK, BLOCK + size) for k, (b, size) in spans.items()}
        return {kind: member_content(shard, parts[kind], size) for kind, (_, size) in spans.items()}

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language; reads the index once if the settings do not give it."""
        return self._language_rows.of(language)

    def _marks(self, start: int, stop: int) -> NDArray[Any]:
        return (self.index.rows(start, stop)[:, 3] >> np.uint32(LANGUAGE_SHIFT)).astype(np.int64) - 1

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        for number in range(0, len(self.index), every):
            try:
                _, fields = self._row(number, self._kinds[1:])
            except SampleFault:
                continue
            yield from row_texts(self.config, fields)

    def opening_faults(self) -> list[FaultReport]:
        """Members and samples that the index leaves out."""
        return [
            FaultReport(kind, self.name, printable(key), -1, -1, printable(f"{entry['path']}: {detail}"))
            for entry in self.index.entries
            for kind, key, detail in entry["faults"]
        ]
