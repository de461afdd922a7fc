"""Cells of parquet files by the numbers of their rows.

Of a row group, short columns are decoded whole, or page by page where they are large, and kept for a while; long values
are read alone, where their index says that they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_modules.faults import SampleFault
from data_modules.sources.blobs import BlobReader, Span
from data_modules.sources.parquet.files import ParquetFiles, chunk_span
from data_modules.sources.parquet.kept import DECODED_BYTES, Kept
from data_modules.sources.parquet.long_values import (
    ChunkPlace,
    LongValue,
    chunk_pages,
    damaged,
    dictionary_of,
    find_value,
    index_chunk,
    page_of,
)
from data_modules.sources.parquet.pages import SNAPPY, UNCOMPRESSED, Page
from data_modules.sources.parquet.schema import Chunk, Leaf
from data_modules.sources.parquet.value_index import ValueIndex

LONG_BYTES = 1024
"""Mean bytes from which on values of a column are read one by one."""
_WHOLE_BYTES = 1 << 20
"""A column of a row group is decoded whole up to this size; a larger one page by page."""
_SCANNED_BYTES = 2 << 20
"""Bytes of row groups that are read together."""
_FEW = 8
"""So many cells of an array become Python objects one by one; more, together."""
_MOST_PLANS = 4096
SINGLE_CODECS = (UNCOMPRESSED, SNAPPY)
"""Compressions from which single values can be read."""
_DECODED: Kept[pa.Array] = Kept(DECODED_BYTES)
"""What this process keeps of all tables."""

Place = Callable[[int, Span], Span]
"""(row group, bytes of a file) -> where they are read."""


class _Unit(NamedTuple):
    """Leaves of a column of a row group that are decoded whole, together."""

    column: str
    chunks: tuple[ChunkPlace, ...]
    key: tuple[Any, ...]
    """Of its array in `_DECODED`."""

    @classmethod
    def of(cls, column: str, chunks: Sequence[ChunkPlace]) -> "_Unit":
        return cls(column, tuple(chunks), (*chunks[0].key, len(chunks)))


class _Columns(NamedTuple):
    """How columns of a row group are read."""

    group: int
    units: list[_Unit]
    single: list[tuple[str, ChunkPlace]]
    """Leaves of which values or pages are read, with their columns."""


def _in_parts(plans: Sequence[_Columns]) -> Iterator[list[_Columns]]:
    """The plans, in order, in parts that decode a limited number of bytes."""
    part: list[_Columns] = []
    size = 0
    for plan in plans:
        own = sum(chunk.span.length for unit in plan.units for chunk in unit.chunks)
        if part and size + own > _SCANNED_BYTES:
            yield part
            part, size = [], 0
        part.append(plan)
        size += own
    if part:
        yield part


class RowGroups:
    """Random access to the cells of files.

    Args:
        files: Their footers.
        reader: Reads them.
        index_of: Path of a leaf with long values -> the file of its index, which need not exist; `None`: each process
            keeps it in memory.
    """

    def __init__(
        self, files: ParquetFiles, reader: BlobReader, index_of: Callable[[tuple[str, ...]], Path | None]
    ) -> None:
        self.files, self._reader, self._owner = files, reader, object()
        self._plans: dict[tuple[int, tuple[str, ...]], _Columns] = {}
        self.indices = {
            path: ValueIndex(index_of(path))
            for path, one in files.chunks.items()
            if (one.are_long & np.isin(one.codecs, SINGLE_CODECS)).any()
        }
        """Leaf -> where its long values are."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_owner", "_plans")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _owner=object(), _plans={})

    def index(self, groups: Sequence[int]) -> None:
        """Complete the indices by all rows of row groups.

        Raises:
            SampleFault: A page cannot be read, or is damaged.
        """
        read = _Reads(self._reader, None)
        for group in groups:
            leaves = self.files.schemas[self.files.schema_of[self.files.file_of(group)]].leaves
            for chunk in (self._chunk(group, leaf) for leaf in leaves if leaf.path in self.indices):
                if self._is_long(chunk):
                    index = self.indices[chunk.leaf.path]
                    index_chunk(chunk, int(self.files.first_rows[group]), index, read.of(group))

    def groups_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row groups that hold rows, int64 (N,)."""
        return np.searchsorted(self.files.first_rows, rows, side="right").astype(np.int64) - 1

    def cells(
        self, rows: NDArray[np.int64], columns: Sequence[str], place: Place | None = None
    ) -> dict[str, list[Any]]:
        """Column -> its cell in each row.

        Args:
            rows: int64 (N,).
            columns: Their names.
            place: Where bytes are, if not in the files themselves.

        Raises:
            SampleFault: A page cannot be read, or is damaged.
            UnicodeDecodeError: A text is not UTF-8.
        """
        groups = self.groups_of(rows)
        found: dict[str, list[Any]] = {column: [None] * len(rows) for column in columns}
        read = _Reads(self._reader, place)
        plans = [self._plan(group, tuple(columns)) for group in np.unique(groups).tolist()]
        values: list[tuple[str, int, int, LongValue]] = []
        for some in _in_parts(plans):
            arrays = self._whole(some, read)
            for plan in some:
                places = np.flatnonzero(groups == plan.group)
                local = rows[places] - self.files.first_rows[plan.group]
                parts = [(unit.column, _python(arrays[unit.key], local)) for unit in plan.units]
                for column, chunk in plan.single:
                    own = self._long_values(chunk, local, read)
                    if own is None:
                        parts.append((column, self._paged(chunk, local, read)))
                    else:
                        values += [(column, at, plan.group, one) for at, one in zip(places.tolist(), own, strict=True)]
                for column, cells in parts:
                    for at, cell in zip(places.tolist(), cells, strict=True):
                        found[column][at] = _merged(found[column][at], cell)
        _fill(found, values, read)
        return found

    def _plan(self, group: int, columns: tuple[str, ...]) -> _Columns:
        """As `_new_plan`, of which the last ones are kept: batches read the same columns again and again."""
        if (plan := self._plans.get((group, columns))) is None:
            if len(self._plans) == _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[group, columns] = self._new_plan(group, columns)
        return plan

    def _new_plan(self, group: int, columns: tuple[str, ...]) -> _Columns:
        """How columns of a row group are read: whole if they are short, or if a row takes more than one value."""
        plan, file = _Columns(group, [], []), self.files.file_of(group)
        for column in columns:
            chunks = [self._chunk(group, leaf) for leaf in self.files.leaves_of(column, file)]
            if any(chunk.leaf.is_repeated for chunk in chunks):
                whole = chunks
            else:
                whole = [one for one in chunks if one.span.length <= _WHOLE_BYTES and not self._is_long(one)]
            if whole:
                plan.units.append(_Unit.of(column, whole))
            plan.single.extend((column, one) for one in chunks if one not in whole)
        return plan

    def _chunk(self, group: int, leaf: Leaf) -> ChunkPlace:
        codec = int(self.files.chunks[leaf.path].codecs[group])
        return ChunkPlace(self._owner, group, leaf, chunk_span(self.files, leaf.path, group), codec)

    def _is_long(self, chunk: ChunkPlace) -> bool:
        return bool(self.files.chunks[chunk.leaf.path].are_long[chunk.group]) and chunk.codec in SINGLE_CODECS

    def _whole(self, plans: Sequence[_Columns], read: "_Reads") -> dict[tuple[Any, ...], pa.Array]:
        """The arrays of all units; those that are not kept are read together, and decoded by row group."""
        units = [unit for plan in plans for unit in plan.units]
        found = {unit.key: array for unit in units if (array := _DECODED.get(unit.key)) is not None}
        missing = [
            (plan.group, own) for plan in plans if (own := [unit for unit in plan.units if unit.key not in found])
        ]
        contents = iter(read.many([(group, one.span) for group, own in missing for unit in own for one in unit.chunks]))
        for group, own in missing:
            for unit, array in self._decoded(group, own, contents):
                found[unit.key] = _DECODED.put(unit.key, array, array.nbytes)
        return found

    def _decoded(
        self, group: int, units: Sequence[_Unit], contents: Iterator[bytes]
    ) -> Iterator[tuple[_Unit, pa.Array]]:
        """Units of a row group with their arrays; `contents` gives the bytes of their leaves."""
        first_rows, values = self.files.first_rows, []
        for chunk in (one for unit in units for one in unit.chunks):
            counts = self.files.chunks[chunk.leaf.path].num_values
            num_values = int(first_rows[group + 1] - first_rows[group] if counts is None else counts[group])
            values.append((chunk, num_values, next(contents)))
        table = self._table(values, int(first_rows[group + 1] - first_rows[group]))
        for unit in units:
            array = table.column(unit.column)
            yield unit, self._cast(unit, array.combine_chunks() if array.num_chunks != 1 else array.chunk(0))

    def _cast(self, unit: _Unit, array: pa.Array) -> pa.Array:
        """An array in the type that the column has in the first file, unless it is a part of the column."""
        schema = self.files.schemas[0]
        wanted = schema.arrow.field(unit.column).type
        is_whole = len(unit.chunks) == len(self.files.leaves_of(unit.column, 0))
        return array.cast(wanted) if is_whole and not array.type.equals(wanted) else array

    def _table(self, values: Sequence[tuple[ChunkPlace, int, bytes]], num_rows: int) -> pa.Table:
        """Leaves, each with the number of its values and their pages, decoded.

        Raises:
            SampleFault: A page is damaged.
        """
        file = self.files.file_of(values[0][0].group)
        schema = self.files.schemas[self.files.schema_of[file]]
        order = {leaf.path: at for at, leaf in enumerate(schema.leaves)}
        in_order = sorted(values, key=lambda one: order[one[0].leaf.path])
        chunks = [Chunk(chunk.leaf, chunk.codec, count, pages) for chunk, count, pages in in_order]
        span = values[0][0].span
        if any(len(pages) < chunk.span.length for chunk, _, pages in values if len(values) > 1):
            raise damaged(span, ValueError("the file ends in it"))
        try:
            content = pa.BufferReader(schema.file_of(chunks, num_rows))
            # `pq.read_table`, and reading ahead, take seven times as long for a hundred rows.
            table = pq.ParquetFile(content, pre_buffer=False).read(use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(span, error) from error
        if len(table) != num_rows:
            raise damaged(span, ValueError(f"{len(table)} rows instead of {num_rows}"))
        return table

    def _long_values(self, chunk: ChunkPlace, rows: NDArray[np.int64], read: "_Reads") -> list[LongValue] | None:
        """Where the values of rows of the row group are; `None`: they can only be had with their pages."""
        if not self._is_long(chunk):
            return None
        found = []
        first_row, index = int(self.files.first_rows[chunk.group]), self.indices[chunk.leaf.path]
        for row in rows.tolist():
            if (value := find_value(chunk, row, first_row, index, read.of(chunk.group))) is None:
                return None
            found.append(value)
        return found

    def _paged(self, chunk: ChunkPlace, rows: NDArray[np.int64], read: "_Reads") -> list[Any]:
        """The cells of rows of the row group, of a leaf that is decoded page by page."""
        pages = chunk_pages(chunk, read.of(chunk.group))
        cells = []
        for row in rows.tolist():
            try:
                page = page_of(pages, row)
            except ValueError as error:
                raise damaged(chunk.span, error) from error
            cells.append(self._page(chunk, page, pages, read)[row - page.first_row].as_py())
        return cells

    def _page(self, chunk: ChunkPlace, page: Page, pages: Sequence[Page], read: "_Reads") -> pa.Array:
        key = (*chunk.key, "page", page.start)
        if (found := _DECODED.get(key)) is not None:
            return found
        dictionary = dictionary_of(pages) if page.uses_dictionary else None
        parts = [one for one in (dictionary, page) if one is not None]
        spans = [(chunk.group, Span(chunk.span.path, one.start, one.end - one.start)) for one in parts]
        content = b"".join(read.many(spans))
        table = self._table([(chunk, page.num_values, content)], page.num_values)
        array = self._cast(_Unit.of(chunk.leaf.path[0], [chunk]), table.column(0).combine_chunks())
        return _DECODED.put(key, array, array.nbytes)

    def blocks(self, column: str) -> Iterator[pa.Array]:
        """The cells of a column in the order of the rows; what they are decoded from is not kept.

        Raises:
            SampleFault: A page cannot be read, or is damaged.
        """
        read, group = _Reads(self._reader, None), 0
        num_groups = len(self.files.first_rows) - 1
        while group < num_groups:
            units: list[_Unit] = []
            size = 0
            while group < num_groups and (not units or size < _SCANNED_BYTES):
                leaves = self.files.leaves_of(column, self.files.file_of(group))
                units.append(_Unit.of(column, [self._chunk(group, leaf) for leaf in leaves]))
                size += sum(chunk.span.length for chunk in units[-1].chunks)
                group += 1
            if size > _SCANNED_BYTES and len(units) == 1 and len(units[0].chunks) == 1:
                (chunk,) = units[0].chunks
                if not chunk.leaf.is_repeated:
                    pages = chunk_pages(chunk, read.of(chunk.group))
                    yield from (self._page(chunk, page, pages, read) for page in pages if not page.is_dictionary)
                    continue
            contents = iter(read.many([(chunk.group, chunk.span) for unit in units for chunk in unit.chunks]))
            for unit in units:
                yield from (array for _, array in self._decoded(unit.chunks[0].group, [unit], contents))


class _Reads:
    """Reads bytes of row groups, where `place` says that they are.

    Its methods raise SampleFault where they cannot be read.
    """

    def __init__(self, reader: BlobReader, place: Place | None) -> None:
        self._reader, self._place = reader, place

    def many(self, spans: Sequence[tuple[int, Span]]) -> list[bytes]:
        """The bytes of spans, each with its row group."""
        placed = [span if self._place is None else self._place(group, span) for group, span in spans]
        in_order = sorted(range(len(placed)), key=placed.__getitem__)  # as they are on the disk
        found: list[bytes] = [b""] * len(placed)
        for at, content in zip(in_order, self._reader.read_many([placed[one] for one in in_order]), strict=True):
            if isinstance(content, SampleFault):
                raise content
            found[at] = content
        return found

    def of(self, group: int) -> Callable[[Span], bytes]:
        """Reads one span of a row group."""
        return lambda span: self.many([(group, span)])[0]


def _fill(found: Mapping[str, list[Any]], values: Sequence[tuple[str, int, int, LongValue]], read: _Reads) -> None:
    """Read long values, each with its column, its place there and its row group, and write them to their places."""
    contents = iter(read.many([(group, one.span) for _, _, group, one in values if one.span.length]))
    for column, at, _, one in values:
        cell = one.nested(next(contents) if one.span.length else b"")
        found[column][at] = _merged(found[column][at], cell)


def _python(array: pa.Array, rows: NDArray[np.int64]) -> list[Any]:
    """The cells of an array at these places.

    Raises:
        UnicodeDecodeError: A text is not UTF-8.
    """
    if len(rows) <= _FEW:
        return [array[row].as_py() for row in rows.tolist()]
    return list(array.take(pa.array(rows)).to_pylist())


def _merged(one: Any, other: Any) -> Any:
    """A cell of a struct from two parts of it."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _merged(one.get(name), other.get(name)) for name in (*one, *(set(other) - set(one)))}
    return other if one is None else one
