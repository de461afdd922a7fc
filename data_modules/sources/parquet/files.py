"""The footers of parquet files: read once, and kept as a few numbers for each row group."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.sources.blobs import IN_FLIGHT, BlobReader, FileState, Span, file_state
from data_modules.sources.parquet.schema import BYTE_ARRAY, MAGIC, Leaf, ParquetSchema, read_metadata, read_schema

_TAIL_BYTES = 64 * 1024
"""Read of the end of a file; a longer footer takes another read."""
_FILES_AT_A_TIME = 64
"""Files whose ends are read together."""
_LEAST_BYTES = 12
"""Of a parquet file."""
_CODECS = {"UNCOMPRESSED": 0, "SNAPPY": 1, "GZIP": 2, "LZO": 3, "BROTLI": 4, "LZ4": 5, "ZSTD": 6, "LZ4_RAW": 7}
"""Arrow's name of a compression -> its number in parquet's format; Arrow reads both kinds of LZ4 as the first."""
_DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError)
"""What the bytes of a damaged footer raise."""


@dataclass(frozen=True, slots=True)
class ColumnChunks:
    """A leaf of all files.

    Attributes:
        starts: int64 (G,), first byte of it in each row group.
        sizes: int64 (G,), bytes.
        codecs: uint8 (G,), compression.
        num_values: int64 (G,), of a leaf in lists; `None`: as many as rows.
        are_long: bool (G,), whether it is bytes or texts of at least `long_bytes` on average.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    codecs: NDArray[np.uint8]
    num_values: NDArray[np.int64] | None
    are_long: NDArray[np.bool_]

    @property
    def nbytes(self) -> int:
        parts = (self.starts, self.sizes, self.codecs, self.are_long, self.num_values)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class ParquetFiles:
    """Files with the same columns, one after the other.

    Attributes:
        paths: Paths or URLs.
        states: Size and version of each.
        columns: Names of the columns of the first file.
        schemas: Different ones among the files.
        schema_of: uint16 (F,), number of each file's.
        first_groups: int64 (F + 1,), number of row groups before each file.
        first_rows: int64 (G + 1,), number of rows before each row group.
        chunks: Path of a leaf -> where it is.
    """

    paths: tuple[str, ...]
    states: tuple[FileState, ...]
    columns: tuple[str, ...]
    schemas: tuple[ParquetSchema, ...]
    schema_of: NDArray[np.uint16]
    first_groups: NDArray[np.int64]
    first_rows: NDArray[np.int64]
    chunks: dict[tuple[str, ...], ColumnChunks]

    @property
    def num_rows(self) -> int:
        return int(self.first_rows[-1])

    @property
    def nbytes(self) -> int:
        """Memory of what grows with the number of row groups and files, in bytes."""
        own = self.schema_of.nbytes + self.first_groups.nbytes + self.first_rows.nbytes
        return own + sum(one.nbytes for one in self.chunks.values())

    def file_of(self, group: int) -> int:
        """Number of the file that holds a row group."""
        return int(np.searchsorted(self.first_groups, group, side="right")) - 1

    def leaves_of(self, column: str, file: int) -> list[Leaf]:
        """The leaves of a column in a file, in their order there."""
        return [leaf for leaf in self.schemas[self.schema_of[file]].leaves if leaf.path[0] == column]


def open_files(
    paths: Sequence[str], columns: Sequence[str] | None, reader: BlobReader, *, long_bytes: int, remedy: str
) -> ParquetFiles:
    """Read the footers of files.

    Args:
        paths: Paths or URLs, at least one.
        columns: Those whose pages will be read; others that are named but absent from the first file are left out.
            `None`: all.
        reader: Reads them.
        long_bytes: Mean bytes from which on values are long.
        remedy: What to do about a damaged file, for the message.

    Raises:
        DataError: A file is damaged or cannot be read, or its columns differ from those of the first.
    """
    collected = _Footers(columns, long_bytes)
    for start in range(0, len(paths), _FILES_AT_A_TIME):
        some = paths[start : start + _FILES_AT_A_TIME]
        states = _states(some, reader)
        for path, state, footer in zip(some, states, _footers(some, states, reader, remedy), strict=True):
            try:
                collected.add(path, state, footer)
            except DataError:
                raise
            except _DAMAGE as error:
                raise _damaged(path, next(iter(str(error).splitlines()), type(error).__name__), remedy) from error
    return collected.files()


def _damaged(path: str, reason: str, remedy: str) -> DataError:
    return DataError(f"{path} is damaged ({reason}); {remedy}")


def _states(paths: Sequence[str], reader: BlobReader) -> list[FileState]:
    """Sizes and versions of files; stores are asked for many at a time."""
    if not any(map(reader.is_slow, paths)):
        return [_state(path) for path in paths]
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="footers") as pool:
        return list(pool.map(_state, paths))


def _state(path: str) -> FileState:
    try:
        return file_state(path)
    except Exception as error:  # every filesystem has its own errors
        raise DataError(f"{path} cannot be read ({error}); check the address and the access rights") from error


def _footers(paths: Sequence[str], states: Sequence[FileState], reader: BlobReader, remedy: str) -> list[bytes]:
    """The footers of files, read together.

    Raises:
        DataError: A file cannot be read, or ends in none.
    """
    tails = [min(state.size, _TAIL_BYTES) for state in states]
    spans = [Span(path, state.size - tail, tail) for path, state, tail in zip(paths, states, tails, strict=True)]
    contents, lengths = _ends(spans, reader), []
    for path, state, content in zip(paths, states, contents, strict=True):
        if state.size < _LEAST_BYTES or content[-4:] != MAGIC:
            raise _damaged(path, "it does not end as a parquet file does: cut, encrypted, or another format", remedy)
        lengths.append(int.from_bytes(content[-8:-4], "little") + 8)
        if lengths[-1] + len(MAGIC) > state.size:
            raise _damaged(path, "its footer is longer than the file", remedy)
    longer = [at for at, (length, tail) in enumerate(zip(lengths, tails, strict=True)) if length > tail]
    again = [Span(paths[at], states[at].size - lengths[at], lengths[at]) for at in longer]
    for at, content in zip(longer, _ends(again, reader), strict=True):
        contents[at] = content
    return [content[len(content) - length : -8] for content, length in zip(contents, lengths, strict=True)]


def _ends(spans: Sequence[Span], reader: BlobReader) -> list[bytes]:
    contents = []
    for span, content in zip(spans, reader.read_many(spans), strict=True):
        if isinstance(content, SampleFault):
            raise DataError(f"{content.detail}; check the address and the access rights") from content
        if len(content) < span.length:
            raise DataError(f"{span.path} became shorter while it was read; open it again when it is complete")
        contents.append(content)
    return contents


class _Footers:
    """Collects the footers of files; arguments as in `open_files`."""

    def __init__(self, columns: Sequence[str] | None, long_bytes: int) -> None:
        self._columns, self._long_bytes = columns, long_bytes
        self._paths: list[str] = []
        self._states: list[FileState] = []
        self._schemas: list[ParquetSchema] = []
        self._parquet_schemas: list[Any] = []
        self._schema_of: list[int] = []
        self._num_groups: list[int] = []
        self._num_rows: list[int] = []
        self._found: dict[tuple[str, ...], list[tuple[int, int, int, int, bool]]] = {}

    def add(self, path: str, state: FileState, footer: bytes) -> None:
        """Take in a file.

        Raises:
            DataError: Its columns differ from those of the first.
        """
        metadata = read_metadata(footer)
        number = next((at for at, one in enumerate(self._parquet_schemas) if one.equals(metadata.schema)), None)
        if number is None:
            schema = read_schema(footer)
            self._check(path, schema)
            number = len(self._schemas)
            self._schemas.append(schema)
            self._parquet_schemas.append(metadata.schema)
        self._paths.append(path)
        self._states.append(state)
        self._schema_of.append(number)
        self._num_groups.append(metadata.num_row_groups)
        leaves = self._leaves(self._schemas[number])
        for at in range(metadata.num_row_groups):
            group = metadata.row_group(at)
            self._num_rows.append(group.num_rows)
            for place, leaf in leaves:
                self._found.setdefault(leaf.path, []).append(self._chunk(group.column(place), leaf, state.size))

    def _leaves(self, schema: ParquetSchema) -> list[tuple[int, Leaf]]:
        wanted = self._columns
        return [(at, leaf) for at, leaf in enumerate(schema.leaves) if wanted is None or leaf.path[0] in wanted]

    def _chunk(self, column: Any, leaf: Leaf, file_size: int) -> tuple[int, int, int, int, bool]:
        first = [one for one in (column.dictionary_page_offset, column.data_page_offset) if one]
        start, size, count = min(first, default=0), column.total_compressed_size, column.num_values
        if start < 0 or size < 0 or start + size > file_size or column.file_path:
            raise ValueError(f"the column {'.'.join(leaf.path)} is not in the file")
        is_text = leaf.physical_type == BYTE_ARRAY and not leaf.is_repeated
        is_long = is_text and column.total_uncompressed_size >= self._long_bytes * max(1, count)
        return start, size, _CODECS[column.compression], count, is_long

    def _check(self, path: str, schema: ParquetSchema) -> None:
        """Raises DataError unless the columns of a schema are those of the first file, in types that can be cast."""
        if not self._schemas:
            return
        first = self._schemas[0].arrow
        for field in first if self._columns is None else (one for one in first if one.name in self._columns):
            at = schema.arrow.get_field_index(field.name)
            if at < 0:
                raise DataError(
                    f"{path} has no column '{field.name}', and the columns of {self._paths[0]} have: make them the "
                    "same, or two sources"
                )
            own = schema.arrow.field(at).type
            if not own.equals(field.type) and not _can_cast(own, field.type):
                raise DataError(
                    f"the columns of {path} and {self._paths[0]} differ: '{field.name}' holds {own}, not {field.type}; "
                    "make them the same, or two sources"
                )

    def files(self) -> ParquetFiles:
        chunks = {}
        repeated = {leaf.path for schema in self._schemas for leaf in schema.leaves if leaf.is_repeated}
        for path, found in self._found.items():
            numbers = np.array([one[:4] for one in found], dtype=np.int64).reshape(-1, 4)
            chunks[path] = ColumnChunks(
                numbers[:, 0].copy(),
                numbers[:, 1].copy(),
                numbers[:, 2].astype(np.uint8),
                numbers[:, 3].copy() if path in repeated else None,
                np.array([one[4] for one in found], dtype=bool),
            )
        return ParquetFiles(
            tuple(self._paths),
            tuple(self._states),
            tuple(self._schemas[0].arrow.names),
            tuple(self._schemas),
            np.array(self._schema_of, dtype=np.uint16),
            np.append(0, np.cumsum(self._num_groups, dtype=np.int64)),
            np.append(0, np.cumsum(self._num_rows, dtype=np.int64)),
            chunks,
        )


def _can_cast(own: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of one type can be read as one of another."""
    try:
        pa.nulls(1, own).cast(wanted)
    except pa.ArrowException:  # the answer no: arrow has no other way to ask which casts it has
        return False
    return True


def chunk_span(files: ParquetFiles, path: tuple[str, ...], group: int) -> Span:
    """Where a leaf of a row group is."""
    chunks = files.chunks[path]
    return Span(files.paths[files.file_of(group)], int(chunks.starts[group]), int(chunks.sizes[group]))
