"""Pairs from tar shards in the WebDataset layout, at random through an index."""

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
from data_modules.sources.language_rows import LanguageRows
from data_modules.sources.rows import Rows, make_record, pairs_per_row, row_texts
from data_modules.sources.tar_headers import BLOCK, header_name, is_header, parse_size
from data_modules.sources.tar_index import Progress, ShardIndex, open_index
from data_modules.sources.tar_scan import JSON, LANGUAGE_SHIFT, MAX_TEXT_BYTES, TEXT, needed_fields, parse_row

_MAX_GAP_BYTES = 64 * 1024
"""Members of a sample no farther apart than this are read in one go."""


class TarSource:
    """Random access to the pairs of shards; a pair's index follows the shards and the images in them."""

    def __init__(
        self, name: str, config: SourceConfig, *, num_workers: int = 1, progress: Progress | None = None
    ) -> None:
        self.name = name
        self.config = config
        self.index: ShardIndex = open_index(
            config, resolve_shards(config.files), num_workers=num_workers, progress=progress
        )
        if not len(self.index):
            raise DataError(
                f"source '{name}' has no usable sample in {len(self.index.shards)} shard(s){self._reasons()}"
            )
        self._pairs = pairs_per_row(config)
        self._language_rows = LanguageRows(config, len(self), self._marks)
        fields = needed_fields(config)
        self._kinds = [
            ("image", 0),
            *([(TEXT, 2)] if TEXT in fields else []),
            *([(JSON, 4)] if fields - {TEXT} else []),
        ]
        self._reader = BlobReader(config.read_timeout_seconds)

    def _reasons(self) -> str:
        faults = self.opening_faults()
        return f"; the first problem: {faults[0].kind} in {faults[0].key} ({faults[0].detail})" if faults else ""

    def __len__(self) -> int:
        return len(self.index) * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        row_number, pair = divmod(index, self._pairs)
        contents, fields = self._row(row_number, self._kinds)
        name, image = contents["image"]
        folder, slash, base = name.rpartition("/")
        key = folder + slash + base.partition(".")[0]
        return make_record(self.config, key=key, image=image, row=fields, pair=pair, file_name=name)

    def _row(
        self, number: int, kinds: Sequence[tuple[str, int]]
    ) -> tuple[dict[str, tuple[str, bytes]], dict[str, Any]]:
        """The members of these kinds (name and content each), and the fields that they give."""
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
        """Kind -> name and content of each member, each checked against its header."""
        first = min(block for block, _ in spans.values()) * BLOCK
        last = max((block + 1) * BLOCK + size for block, size in spans.values())
        wanted = sum(BLOCK + size for _, size in spans.values())
        if last - first <= wanted + _MAX_GAP_BYTES:
            whole = self._reader.read(shard, first, last - first)
            parts = {k: whole[b * BLOCK - first : (b + 1) * BLOCK - first + size] for k, (b, size) in spans.items()}
        else:
            parts = {k: self._reader.read(shard, b * BLOCK, BLOCK + size) for k, (b, size) in spans.items()}
        return {kind: self._checked(shard, parts[kind], size) for kind, (_, size) in spans.items()}

    def _checked(self, shard: str, part: bytes, size: int) -> tuple[str, bytes]:
        header, content = part[:BLOCK], part[BLOCK:]
        try:
            fits = is_header(header) and parse_size(header[124:136]) == size == len(content)
        except ValueError:
            fits = False
        if not fits:
            raise SampleFault("shard_changed", f"{shard} no longer holds the member that its index describes")
        return header_name(header), content

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language; reads the whole index once where only the samples tell it."""
        return self._language_rows.of(language)

    def _marks(self, start: int, stop: int) -> NDArray[Any]:
        return (self.index.rows(start, stop)[:, 3] >> np.uint32(LANGUAGE_SHIFT)).astype(np.int64) - 1

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """Every (language, text) of every n-th sample in their order; those without a usable one are passed over."""
        for number in range(0, len(self.index), every):
            try:
                _, fields = self._row(number, self._kinds[1:])
            except SampleFault:
                continue
            yield from row_texts(self.config, fields)

    def opening_faults(self) -> list[FaultReport]:
        """What was left out when the shards were indexed."""
        return [
            FaultReport(kind, self.name, printable(key), -1, -1, printable(f"{entry['path']}: {detail}"))
            for entry in self.index.entries
            for kind, key, detail in entry["faults"]
        ]
