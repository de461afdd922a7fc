"""Levels, indices and compressed blocks against parquet's specification and against Arrow."""

import numpy as np
import pyarrow as pa
import pytest

from data_modules.sources.parquet.pages import (
    BLOCK_SHIFT,
    UnsupportedPageError,
    decompressed,
    find_pages,
    hybrid,
    snappy_blocks,
)
from data_modules.sources.parquet.thrift import unsigned


def test_hybrid__the_example_of_the_specification() -> None:
    """parquet-format, Encodings.md: the numbers 0 to 7 in three bits are 10001000 11000110 11111010."""
    packed = bytes([0b10001000, 0b11000110, 0b11111010])
    assert hybrid(bytes([1 << 1 | 1]) + packed, 3, 8).tolist() == list(range(8))
    assert hybrid(bytes([1 << 1 | 1]) + packed, 3, 5).tolist() == [0, 1, 2, 3, 4], "what fills the last eight"
    assert hybrid(bytes([5 << 1, 6, 1 << 1 | 1]) + packed, 3, 13).tolist() == [6] * 5 + list(range(8))


@pytest.mark.parametrize("content", [b"", bytes([5 << 1]), bytes([1 << 1 | 1, 1]), b"\0\0"])
def test_hybrid__that_ends_too_early(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"too early|empty run"):
        hybrid(content, 9, 5)


def test_snappy_blocks__each_is_decompressed_by_itself() -> None:
    raw = np.random.default_rng(0).bytes(150_000) + b"the same words " * 9_000 + np.random.default_rng(1).bytes(9)
    packed = pa.compress(raw, "snappy", asbytes=True)
    blocks = snappy_blocks(packed)
    size = 1 << BLOCK_SHIFT
    assert len(blocks) == -(-len(raw) // size) + 1 and blocks[-1] == len(packed)
    for number in range(len(blocks) - 1):
        own = raw[number * size : (number + 1) * size]
        part = unsigned(len(own)) + packed[blocks[number] : blocks[number + 1]]
        assert decompressed(part, len(own)) == own


def test_snappy_blocks__one_that_refers_to_what_is_before_it_is_not_supported() -> None:
    """Arrow's Snappy never writes such a stream, and the format allows it."""
    literal = bytes([62 << 2]) + (65535).to_bytes(3, "little") + bytes(range(256)) * 256
    copy = bytes([3 << 2 | 2]) + (4).to_bytes(2, "little")
    packed = unsigned(65540) + literal + copy
    assert decompressed(packed, 65540)[-4:] == bytes([252, 253, 254, 255]), "it is valid"
    with pytest.raises(UnsupportedPageError):
        snappy_blocks(packed)


def test_find_pages__what_is_no_page_header() -> None:
    content = bytes(range(200, 256)) * 20
    with pytest.raises(ValueError, match="byte 0"):
        find_pages(lambda start, length: content[start : start + length], 0, len(content))
