"""The columns of a parquet file as its footer describes them, and smaller files made of some of its pages.

Arrow reads whole row groups. A few pages behind the schema of their column are a valid parquet file too, which Arrow
decodes whatever their encoding and compression.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.sources.parquet.thrift import BINARY, I32, I64, LIST, STRUCT, Struct, ThriftReader, write_struct

MAGIC = b"PAR1"
BYTE_ARRAY = 6
"""Physical type of texts and bytes."""
_OPTIONAL, _REPEATED = 1, 2
_TYPE, _REPETITION, _NAME, _CHILDREN = 1, 3, 4, 5
"""Fields of a schema element."""
_SCHEMA = 2
"""Field of a footer."""
_ENCODINGS = (0, 3, 8)
"""Stated for every column: plain, run lengths, dictionary. Readers take a page's encoding from the page."""
_ARROW_SCHEMA = b"ARROW:schema"


class Leaf(NamedTuple):
    """A column that holds values: a field of a row, or a part of one."""

    path: tuple[str, ...]
    """Names from the root."""
    physical_type: int
    are_optional: tuple[bool, ...]
    """Of each name, whether it may be null."""
    is_repeated: bool
    """It lies in a list or map: a row has any number of values."""

    @property
    def max_definition(self) -> int:
        """Definition level of a value that is not null, in a leaf that is not repeated."""
        return sum(self.are_optional)


@dataclass(frozen=True)
class ParquetSchema:
    """The columns of a file.

    Args:
        elements: Its schema elements, the root first, each followed by its children.
        arrow: The same as Arrow reads it.
    """

    elements: Sequence[Struct]
    arrow: pa.Schema
    leaves: tuple[Leaf, ...] = field(init=False)
    """In the order of the columns of a row group."""
    _heads: dict[tuple[tuple[str, ...], ...], tuple[list[Struct], bytes]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "leaves", tuple(leaf for _, leaf in self._walk()))

    def _walk(self) -> Iterator[tuple[list[int], Leaf]]:
        """The numbers of the elements on the way to each leaf, and the leaf."""
        for way in _ways(self.elements, 0, [])[0]:
            nodes = [self.elements[one] for one in way]
            repetitions = [_number(one, _REPETITION) for one in nodes]
            names = tuple(one[_NAME][1].decode() for one in nodes)
            are_optional = tuple(one == _OPTIONAL for one in repetitions)
            yield way, Leaf(names, _number(nodes[-1], _TYPE), are_optional, _REPEATED in repetitions)

    def file_of(self, chunks: "Sequence[Chunk]", num_rows: int) -> bytes:
        """A parquet file with one row group.

        Args:
            chunks: Its columns, in the order of `leaves`.
            num_rows: Its rows.
        """
        elements, arrow = self._head(tuple(one.leaf.path for one in chunks))
        body, columns = bytearray(MAGIC), []
        for one in chunks:
            columns.append((STRUCT, _column(one, len(body))))
            body += one.pages
        group: Struct = {
            1: (LIST, (STRUCT, [column for _, column in columns])),
            2: (I64, len(body)),
            3: (I64, num_rows),
        }
        metadata: Struct = {1: (BINARY, _ARROW_SCHEMA), 2: (BINARY, arrow)}
        footer = write_struct(
            {
                1: (I32, 1),
                _SCHEMA: (LIST, (STRUCT, elements)),
                3: (I64, num_rows),
                4: (LIST, (STRUCT, [group])),
                5: (LIST, (STRUCT, [metadata])),
            }
        )
        return bytes(body) + footer + len(footer).to_bytes(4, "little") + MAGIC

    def _head(self, paths: tuple[tuple[str, ...], ...]) -> tuple[list[Struct], bytes]:
        """Schema elements and Arrow's schema, encoded, of the leaves with these paths."""
        if paths not in self._heads:
            ways = [way for way, leaf in self._walk() if leaf.path in paths]
            kept = sorted({0, *(number for way in ways for number in way)})
            parents = {(way[at - 1] if at else 0, way[at]) for way in ways for at in range(len(way))}
            elements = []
            for number in kept:
                element = dict(self.elements[number])
                if children := sum(parent == number for parent, _ in parents):
                    element[_CHILDREN] = (I32, children)
                elements.append(element)
            fields = []
            for name in dict.fromkeys(path[0] for path in paths):
                own = [path[1:] for path in paths if path[0] == name]
                fields.append(_pruned(self.arrow.field(name), own))
            self._heads[paths] = elements, base64.b64encode(pa.schema(fields).serialize())
        return self._heads[paths]


class Chunk(NamedTuple):
    """Pages of a leaf."""

    leaf: Leaf
    codec: int
    """Number of the compression in parquet's format."""
    num_values: int
    pages: bytes


def _column(chunk: Chunk, start: int) -> Struct:
    """The description of a column whose pages begin at byte `start`."""
    described: Struct = {
        1: (I32, chunk.leaf.physical_type),
        2: (LIST, (I32, list(_ENCODINGS))),
        3: (LIST, (BINARY, [name.encode() for name in chunk.leaf.path])),
        4: (I32, chunk.codec),
        5: (I64, chunk.num_values),
        6: (I64, len(chunk.pages)),
        7: (I64, len(chunk.pages)),
        9: (I64, start),
    }
    return {2: (I64, start), 3: (STRUCT, described)}


def _pruned(found: pa.Field, paths: Sequence[Sequence[str]]) -> pa.Field:
    """A field with those parts of a struct that the paths lead to; other types stay whole."""
    if not pa.types.is_struct(found.type) or not all(paths):
        return found
    children = []
    for child in found.type:
        if own := [path[1:] for path in paths if path[0] == child.name]:
            children.append(_pruned(child, own))
    return pa.field(found.name, pa.struct(children), found.nullable)


def _ways(elements: Sequence[Struct], number: int, way: list[int]) -> tuple[list[list[int]], int]:
    """The numbers of the elements on the way to each leaf below one, and the number behind the last of them."""
    following, children = number + 1, _number(elements[number], _CHILDREN)
    own = [*way, number] if number else way
    if not children:
        return [own], following
    found: list[list[int]] = []
    for _ in range(children):
        below, following = _ways(elements, following, own)
        found += below
    return found, following


def _number(element: Struct, field_number: int) -> int:
    return int(element[field_number][1]) if field_number in element else 0


def read_schema(footer: bytes) -> ParquetSchema:
    """The schema of a file from the bytes of its footer.

    Raises:
        IndexError, ValueError, pa.ArrowException: They are no footer.
    """
    _, elements = ThriftReader(footer).struct(last_field=_SCHEMA)[_SCHEMA][1]
    return ParquetSchema(elements, read_metadata(footer).schema.to_arrow_schema())


def read_metadata(footer: bytes) -> pq.FileMetaData:
    """What Arrow finds in the bytes of a footer.

    Raises:
        pa.ArrowException: They are no footer.
    """
    return pq.read_metadata(pa.BufferReader(MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC))
