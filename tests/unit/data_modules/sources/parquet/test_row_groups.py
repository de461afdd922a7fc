"""Cells of parquet files in every layout that Arrow writes, against Arrow's own reader."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.sources.blobs import BlobReader, Span
from data_modules.sources.parquet.files import open_files
from data_modules.sources.parquet.row_groups import LONG_BYTES
from data_modules.sources.parquet.table import ParquetTable

NUM = 600
LAYOUTS = list(itertools.product(["none", "snappy", "zstd"], [True, False], ["1.0", "2.0"], [None, 170], [None, 16]))
"""Compression, dictionaries, version of pages, rows of a row group, values that are written together."""


def table() -> pa.Table:
    """Columns of short and of long values, with nulls, lists and structs."""
    random = np.random.default_rng(0)
    images: list[bytes | None] = [
        None if row % 17 == 3 else random.bytes(int(random.integers(0, 9000))) for row in range(NUM)
    ]
    images[5] = b""
    structs = [
        None if row % 31 == 0 else {"bytes": images[row], "path": None if row % 5 == 0 else f"{row}.jpg"}
        for row in range(NUM)
    ]
    return pa.table(
        {
            "number": list(range(NUM)),
            "image": images,
            "both": pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "caption": [f"caption {row % 7}" if row % 3 else None for row in range(NUM)],
            "words": [[str(row)] * (row % 4) for row in range(NUM)],
            "large": pa.array([str(row) for row in range(NUM)], pa.large_string()),
            "coded": pa.array([f"d{row % 3}" for row in range(NUM)]).dictionary_encode(),
            "time": pa.array([row * 1000 for row in range(NUM)], pa.timestamp("ms", tz="Asia/Seoul")),
            "repetitive": [b"abcd" * 300 + bytes([row % 256]) * (row % 500) for row in range(NUM)],
        }
    )


TABLE = table()


def opened(folder: Path, *files: str, columns: list[str] | None = None) -> ParquetTable:
    reader = BlobReader()
    paths = [str(folder / file) for file in files]
    found = open_files(paths, columns, reader, long_bytes=LONG_BYTES, remedy="restore it")
    return ParquetTable(found, reader, lambda leaf: folder / f"{'-'.join(leaf)}.places")


def write(file: Path, rows: pa.Table = TABLE, **options: Any) -> None:
    pq.write_table(rows, file, **options)


@pytest.mark.parametrize(("compression", "dictionary", "version", "group", "batch"), LAYOUTS)
def test_cells__are_those_that_arrow_reads(
    tmp_path: Path, compression: str, dictionary: bool, version: str, group: int | None, batch: int | None
) -> None:
    options: dict[str, Any] = {"compression": compression, "use_dictionary": dictionary, "row_group_size": group}
    options |= {"data_page_version": version}
    options |= {"write_batch_size": batch, "data_page_size": 20_000} if batch else {}
    write(tmp_path / "a.parquet", **options)
    found = opened(tmp_path, "a.parquet")
    rows = np.random.default_rng(1).integers(0, NUM, 100)
    expected = TABLE.take(rows).to_pydict()
    for _ in range(2):  # the second time from the index
        assert found[rows] == expected
    assert pickle.loads(pickle.dumps(found))[rows] == expected
    assert found[7] == {column: cells[0] for column, cells in TABLE.slice(7, 1).to_pydict().items()}
    for column in TABLE.column_names:
        assert [cell for block in found.blocks(column) for cell in block.to_pylist()] == TABLE[column].to_pylist()


def test_cells__a_long_value_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 bytes lie in at most two blocks of 64 kB, which random bytes do not shrink."""
    images = [np.random.default_rng(row).bytes(20_000) for row in range(300)]
    for compression, most in (("none", 20_000), ("snappy", 2 * 65536 + 20)):
        write(tmp_path / f"{compression}.parquet", pa.table({"image": images}), compression=compression)
        found = opened(tmp_path, f"{compression}.parquet")
        found.groups.index([0])
        read: list[Span] = []
        monkeypatch.setattr(BlobReader, "read_many", _recording(BlobReader.read_many, read))
        assert found[np.array([299, 4])]["image"] == [images[299], images[4]]
        assert len(read) == 2 and max(one.length for one in read) <= most
        monkeypatch.undo()
        (tmp_path / "image.places").unlink()


def _recording(really: Any, read: list[Span]) -> Any:
    def read_many(self: BlobReader, spans: list[Span]) -> list[bytes | SampleFault]:
        read.extend(spans)
        return list(really(self, spans))

    return read_many


def test_cells__columns_that_are_not_asked_for_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet")
    found, read = opened(tmp_path, "a.parquet"), list[Span]()
    metadata = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    place = next(at for at in range(metadata.num_columns) if metadata.column(at).path_in_schema == "caption")
    monkeypatch.setattr(BlobReader, "read_many", _recording(BlobReader.read_many, read))
    found.select_columns(["caption"])[np.arange(NUM)]
    column = metadata.column(place)
    start = column.dictionary_page_offset or column.data_page_offset
    assert [(one.start, one.length) for one in read] == [(start, column.total_compressed_size)]
    read.clear()
    found.select_columns(["caption"])[np.arange(NUM)]
    assert not read, "it is kept"


def test_open_files__types_that_can_be_cast_are_those_of_the_first_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"n": [1, 2], "t": ["x", "y"]}))
    write(tmp_path / "b.parquet", pa.table({"t": pa.nulls(2), "n": pa.array([3, 4], pa.int32())}))
    found = opened(tmp_path, "a.parquet", "b.parquet")
    assert found[np.arange(4)] == {"n": [1, 2, 3, 4], "t": ["x", "y", None, None]}
    assert [block.type for block in found.blocks("n")] == [pa.int64()] * 2


def test_open_files__other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"n": [1], "t": ["x"]}))
    write(tmp_path / "b.parquet", pa.table({"n": [1]}))
    write(tmp_path / "c.parquet", pa.table({"n": [{"a": 1}], "t": ["x"]}))
    with pytest.raises(DataError, match=r"b\.parquet has no column 't', and the columns of .*a\.parquet have"):
        opened(tmp_path, "a.parquet", "b.parquet")
    with pytest.raises(DataError, match=r"c\.parquet and .*a\.parquet differ: 'n' holds struct.*, not int64"):
        opened(tmp_path, "a.parquet", "c.parquet")
    assert len(opened(tmp_path, "a.parquet", "b.parquet", columns=["n"])) == 2


def test_open_files__a_footer_longer_than_the_first_read(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", row_group_size=2)
    assert pq.read_metadata(tmp_path / "a.parquet").serialized_size > 64 * 1024
    assert opened(tmp_path, "a.parquet")[np.array([599])]["number"] == [599]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_cells__of_damaged_pages_are_faults(tmp_path: Path, compression: str) -> None:
    """Every byte before the footer is changed: no row comes out as if nothing were wrong, and none ends the run."""
    images = [np.random.default_rng(row).bytes(3000) for row in range(40)]
    write(tmp_path / "a.parquet", pa.table({"image": images, "t": ["x"] * 40}), compression=compression)
    content = (tmp_path / "a.parquet").read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    (tmp_path / "a.parquet").write_bytes(content[:4] + b"\xff" * (end - 4) + content[end:])
    found = opened(tmp_path, "a.parquet")
    for column in ("image", "t"):
        with pytest.raises(SampleFault, match=r"table_damaged: .*a\.parquet: the page at byte \d+"):
            found.select_columns([column])[3]


def test_value_index__a_torn_record_is_found_out_again(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    found, index = opened(tmp_path, "a.parquet"), tmp_path / "image.places"
    expected = found[np.arange(NUM)]
    assert index.stat().st_size == 24 * NUM
    content = bytearray(index.read_bytes())
    content[24 * 100 : 24 * 100 + 12] = b"\x07" * 12
    content[24 * 200 : 24 * 300] = bytes(24 * 100)
    index.write_bytes(content)
    assert opened(tmp_path, "a.parquet")[np.arange(NUM)] == expected


def test_value_index__that_cannot_be_written_costs_time_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "image.places").mkdir()
    found = opened(tmp_path, "a.parquet")
    for _ in range(2):
        assert found[np.arange(50)] == TABLE.slice(0, 50).to_pydict()
    assert sum("cannot be written" in one for one in caplog.messages) == 1
