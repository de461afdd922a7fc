"""Thrift's compact protocol against the examples of its specification, and against footers that Arrow wrote."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.sources.parquet.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    STRUCT,
    TRUE,
    ThriftReader,
    unsigned,
    write_struct,
)


@pytest.mark.parametrize(("value", "content"), [(0, b"\0"), (127, b"\x7f"), (50399, b"\xdf\x89\x03")])
def test_unsigned__is_the_uleb128_of_the_specification(value: int, content: bytes) -> None:
    assert unsigned(value) == content


def test_write_struct__fields_by_the_specification() -> None:
    """Short form: delta and type in a byte; long form: the field number as a zigzag number of its own."""
    assert write_struct({1: (I32, -1)}) == bytes([0x15, 0x01, 0x00])
    assert write_struct({1: (I32, 1), 20: (I64, 50)}) == bytes([0x15, 0x02, 0x06, 0x28, 0x64, 0x00])
    assert write_struct({2: (TRUE, False), 3: (BINARY, b"ab")}) == bytes([0x22, 0x18, 0x02, 0x61, 0x62, 0x00])


def test_struct__is_read_as_it_was_written() -> None:
    inner = {1: (I64, -(1 << 40)), 3: (TRUE, True)}
    fields = {1: (LIST, (I32, list(range(-10, 10)))), 30: (STRUCT, inner), 31: (LIST, (STRUCT, [inner, {}]))}
    reader = ThriftReader(b"xx" + write_struct(fields) + b"behind", 2)
    assert reader.struct() == {**fields, 30: (STRUCT, {1: inner[1], 3: (TRUE, True)})}
    assert reader._content[reader.position :] == b"behind"


def test_struct__of_an_arrow_footer_gives_rows_and_names() -> None:
    written = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]}), written)
    content = written.getvalue()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    fields = ThriftReader(footer).struct()
    assert fields[3] == (I64, 3)
    assert [element[4][1] for element in fields[2][1][1][1:]] == [b"a", b"b"]
    assert write_struct(fields) == footer


@pytest.mark.parametrize("length", range(1, 12))
def test_struct__that_ends_too_early_is_an_index_error(length: int) -> None:
    content = write_struct({1: (BINARY, b"abcdef"), 2: (I32, 70_000)})
    assert len(content) == 13
    with pytest.raises(IndexError):
        ThriftReader(content[:length]).struct()
