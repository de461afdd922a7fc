"""Pages of a column: where they are, and where single values are in those that hold long ones.

Pages of images hold tens of megabytes in the files that Arrow writes by default. A value is read alone where it lies
in one piece: in pages that are not compressed, and in those of Snappy, which compresses each 64 kB by itself.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_modules.sources.parquet.thrift import Struct, ThriftReader

UNCOMPRESSED, SNAPPY = 0, 1
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
"""Kinds of pages."""
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8
"""Encodings."""
_HEADER_BYTES = 512
"""Read for a page's header first; one with long statistics takes another read."""
_MAX_HEADER_BYTES = 1 << 20
BLOCK_SHIFT = 16
"""Snappy compresses blocks of 2^16 bytes."""
_SNAPPY = pa.Codec("snappy")


class UnsupportedPageError(ValueError):
    """A page's values cannot be found one by one."""


class Page(NamedTuple):
    """A page in a file."""

    start: int
    """Byte of its header."""
    body: int
    """Byte behind its header."""
    end: int
    raw_size: int
    """Bytes of the body when decompressed."""
    first_row: int
    """In its row group, of a leaf that is not repeated; of a dictionary, 0."""
    num_values: int
    """Nulls included."""
    is_dictionary: bool
    uses_dictionary: bool
    is_plain: bool
    """Its encoding is plain."""
    levels: int
    """Bytes of levels, not compressed, at the start of the body; -1: they are a part of it (version 1)."""
    has_rle_levels: bool
    is_compressed: bool
    """By the codec of its column, unless that is none."""


def find_pages(read: Callable[[int, int], bytes], start: int, size: int) -> list[Page]:
    """The pages of a column of a row group, the dictionary first if there is one.

    Args:
        read: (start, length) -> bytes of the file.
        start: Byte of the first page.
        size: Bytes of all.

    Raises:
        ValueError: There is no page header where one must be.
    """
    pages: list[Page] = []
    position, row = start, 0
    while position < start + size:
        header, body = _header(read, position, start + size)
        if (page := _page(header, position, body, row)) is not None:
            pages.append(page)
            row += 0 if page.is_dictionary else page.num_values
        length = header[3][1]
        if length < 0:
            raise ValueError(f"the page at byte {position} has {length} bytes")
        position = body + length
    if position != start + size:
        raise ValueError(f"the page before byte {position} ends behind its column")
    return pages


def _header(read: Callable[[int, int], bytes], position: int, end: int) -> tuple[Struct, int]:
    """The header at a byte, and the byte behind it."""
    length = _HEADER_BYTES
    while True:
        content = read(position, min(length, end - position))
        reader = ThriftReader(content)
        try:
            header = reader.struct()
        except IndexError as error:
            if len(content) < length or length >= _MAX_HEADER_BYTES:
                raise ValueError(f"no page header at byte {position}") from error
            length *= 16
            continue
        if not {1, 2, 3} <= header.keys():
            raise ValueError(f"no page header at byte {position}")
        return header, position + reader.position


def _page(header: Struct, start: int, body: int, row: int) -> Page | None:
    """A page from its header; `None`: it holds no values."""
    kind, raw_size, size = header[1][1], header[2][1], header[3][1]
    number = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind)
    if number is None:
        return None
    if number not in header:
        raise ValueError(f"no page header at byte {start}")
    own: Struct = header[number][1]
    encoding = own[4 if kind == _DATA_V2 else 2][1]
    is_v2 = kind == _DATA_V2
    return Page(
        start,
        body,
        body + size,
        raw_size,
        0 if kind == _DICTIONARY else row,
        own[1][1],
        kind == _DICTIONARY,
        kind != _DICTIONARY and encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY),
        encoding == _PLAIN or (kind == _DICTIONARY and encoding == _PLAIN_DICTIONARY),
        own[5][1] + own[6][1] if is_v2 else -1,
        is_v2 or kind == _DICTIONARY or own[3][1] == _RLE,
        own.get(7, (0, True))[1] if is_v2 else True,
    )


@dataclass(frozen=True, slots=True)
class ValuePlaces:
    """Where the values of a page are.

    Attributes:
        body: Byte of the file that `blocks` or `offsets` count from.
        offsets: uint32 or int64 (N + 1,), of each value in the decompressed body, behind the four bytes of its length;
            `offsets[n + 1] - 4` is the end of value n.
        blocks: uint32 or int64 (B + 1,), compressed start of every 64 kB; `None`: the body is not compressed.
        raw_size: Bytes of the decompressed body.
    """

    body: int
    offsets: NDArray[np.unsignedinteger]
    blocks: NDArray[np.unsignedinteger] | None
    raw_size: int

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + (0 if self.blocks is None else self.blocks.nbytes)


@dataclass(frozen=True, slots=True)
class PageRows:
    """Which value each row of a page has.

    Attributes:
        values: Where they are: in the page, or in the dictionary.
        levels: uint8 (N,), definition level of each row; `None`: no row is null.
        indices: int32 (N,), number of each row's value, undefined where it is null; `None`: row n has value n.
    """

    values: ValuePlaces
    levels: NDArray[np.uint8] | None
    indices: NDArray[np.int32] | None


def page_rows(page: Page, content: bytes, codec: int, max_level: int, dictionary: ValuePlaces | None) -> PageRows:
    """Which value each row of a data page of bytes or texts has.

    Args:
        page: The page.
        content: Its body.
        codec: Compression of its column, one of `UNCOMPRESSED` and `SNAPPY`.
        max_level: Definition level of values that are not null.
        dictionary: Values of the dictionary, if the page uses it.

    Raises:
        UnsupportedPageError: Its values cannot be found one by one.
        ValueError: It is damaged.
    """
    if not (page.is_plain or page.uses_dictionary) or not page.has_rle_levels:
        raise UnsupportedPageError
    skipped = max(0, page.levels)
    raw, blocks = _body(page, content, codec, skipped)
    stored, at = (content, 0) if page.levels >= 0 else (raw, 0)
    levels, length = None, skipped
    if max_level and page.levels < 0:
        length, at = int.from_bytes(stored[:4], "little") + 4, 4
    if max_level:
        levels = hybrid(stored[at:length], max_level.bit_length(), page.num_values).astype(np.uint8)
    start = 0 if page.levels >= 0 else (length if max_level else 0)
    num_values = page.num_values if levels is None else int((levels == max_level).sum())
    levels = None if num_values == page.num_values else levels
    numbers = None if levels is None else np.cumsum(levels == max_level, dtype=np.int32) - 1
    if not page.uses_dictionary:
        return PageRows(_places(page, raw, blocks, start, num_values), levels, numbers)
    if dictionary is None:
        raise ValueError("a page needs a dictionary, and its column has none")
    indices = hybrid(raw[start + 1 :], raw[start], num_values).astype(np.int32)
    if len(indices) and int(indices.max()) >= len(dictionary.offsets) - 1:
        raise ValueError("a page names a value that its dictionary lacks")
    return PageRows(dictionary, levels, indices if numbers is None else indices[np.maximum(numbers, 0)])


def dictionary_places(page: Page, content: bytes, codec: int) -> ValuePlaces:
    """Where the values of a dictionary of bytes or texts are; arguments and errors as in `page_rows`."""
    if not page.is_plain:
        raise UnsupportedPageError
    raw, blocks = _body(page, content, codec, 0)
    return _places(page, raw, blocks, 0, page.num_values)


def _body(page: Page, content: bytes, codec: int, skipped: int) -> tuple[bytes, NDArray[np.unsignedinteger] | None]:
    """The decompressed body behind its levels of version 2, and the places of its blocks."""
    packed, raw_size = content[skipped:], page.raw_size - skipped
    if codec == UNCOMPRESSED or not page.is_compressed:
        return packed, None
    if codec != SNAPPY:
        raise UnsupportedPageError
    raw = decompressed(packed, raw_size)
    return raw, snappy_blocks(packed)


def decompressed(packed: bytes, raw_size: int) -> bytes:
    """What Snappy compressed to these bytes.

    Raises:
        ValueError: They are damaged.
    """
    try:
        return bytes(_SNAPPY.decompress(packed, raw_size, asbytes=True))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it cannot be decompressed ({error})") from error


def _places(
    page: Page, raw: bytes, blocks: NDArray[np.unsignedinteger] | None, start: int, num_values: int
) -> ValuePlaces:
    """Where the values of a plain page are, of which the first begins at byte `start`."""
    offsets, at, read = [], start, struct.Struct("<I").unpack_from
    try:
        for _ in range(num_values):
            offsets.append(at + 4)
            at += 4 + read(raw, at)[0]
    except struct.error as error:
        raise ValueError("a value ends behind its page") from error
    if at > len(raw):
        raise ValueError("a value ends behind its page")
    offsets.append(at + 4)
    skipped = max(0, page.levels)
    kind = np.uint32 if max(at + 4, page.end - page.body) < 1 << 32 else np.int64
    return ValuePlaces(page.body + skipped, np.array(offsets, dtype=kind), blocks, len(raw))


def snappy_blocks(packed: bytes) -> NDArray[np.unsignedinteger]:
    """Where each 64 kB begin in what Snappy compressed, and where the last ones end, uint32 (B + 1,).

    Raises:
        UnsupportedPageError: A block refers to what is before it.
    """
    at = next(place for place, byte in enumerate(packed[:5]) if byte < 0x80) + 1
    starts, block, edge, out, size = [at], 0, 1 << BLOCK_SHIFT, 0, len(packed)
    while at < size:
        tag = packed[at]
        kind = tag & 3
        if kind == 0:
            length, more = (tag >> 2) + 1, 0
            if length > 60:
                more = length - 60
                length = int.from_bytes(packed[at + 1 : at + 1 + more], "little") + 1
            at += 1 + more + length
        else:
            if kind == 1:
                length, distance, step = (tag >> 2 & 7) + 4, tag >> 5 << 8 | packed[at + 1], 2
            else:
                length, step = (tag >> 2) + 1, 3 if kind == 2 else 5
                distance = int.from_bytes(packed[at + 1 : at + step], "little")
            if distance > out - block:
                raise UnsupportedPageError
            at += step
        out += length
        if out > edge:
            raise UnsupportedPageError
        if out == edge:
            starts.append(at)
            block, edge = out, edge + (1 << BLOCK_SHIFT)
    if out > block:
        starts.append(at)
    return np.array(starts, dtype=np.uint32 if size < 1 << 32 else np.int64)


def hybrid(content: bytes, width: int, count: int) -> NDArray[np.uint32]:
    """`count` numbers of `width` bits in parquet's mixture of run lengths and packed bits, uint32 (count,).

    Raises:
        ValueError: They end too early.
    """
    found, filled, reader = np.zeros(count, dtype=np.uint32), 0, _Bytes(content)
    if width > 32:
        raise ValueError(f"{width} bits of an index")
    try:
        while filled < count and width:
            head = reader.unsigned()
            if head & 1:
                length = min(8 * (head >> 1), count - filled)  # some writers leave out what fills the last eight
                bits = np.unpackbits(np.frombuffer(reader.take(-(-length * width // 8)), np.uint8), bitorder="little")
                packed = bits[: length * width].reshape(-1, width).astype(np.uint32)
                found[filled : filled + length] = packed @ (np.uint32(1) << np.arange(width, dtype=np.uint32))
            else:
                length = min(head >> 1, count - filled)
                found[filled : filled + length] = int.from_bytes(reader.take(-(-width // 8)), "little")
            if not length:
                raise ValueError("an empty run")
            filled += length
    except IndexError as error:
        raise ValueError("numbers end too early") from error
    return found


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def unsigned(self) -> int:
        found = shift = 0
        while True:
            part = self._content[self._at]
            self._at += 1
            found |= (part & 0x7F) << shift
            if part < 0x80:
                return found
            shift += 7

    def take(self, length: int) -> bytes:
        found = self._content[self._at : self._at + length]
        if len(found) < length:
            raise IndexError
        self._at += length
        return found
