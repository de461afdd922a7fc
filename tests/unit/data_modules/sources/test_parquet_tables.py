"""Parquet sources that are read in place: the records of the copy that `datasets` makes, without one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.loading import OpenedBefore, open_sources
from data_modules.order.sampling import BatchOrder
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.parquet_tables import cache_bytes, index_parquet
from data_modules.sources.tables import TableSource, keep_encoded, open_table
from data_modules.sources.tar_runs import Window
from tests.paths import ROOT

EMOJI = SourceConfig(
    files=["package:emoji/*.parquet"],
    captions={"ko": "name_ko", "en": "name_en"},
    keywords={"ko": "keywords_ko", "en": "keywords_en"},
    where={"split": ["train"]},
)
NUM, GROUP = 120, 10


def without_attributes(record: PairRecord | SampleFault) -> list[object]:
    assert isinstance(record, PairRecord)
    return [getattr(record, name) for name in PairRecord.__dataclass_fields__ if name != "attributes"]


def test_records__of_the_embedded_corpus_are_those_of_the_copy() -> None:
    found = open_source("emoji", EMOJI)
    copied = keep_encoded(open_table(EMOJI.files, "image", ["key"]), "image")
    assert isinstance(copied, datasets.Dataset)
    expected = TableSource("emoji", EMOJI, copied)
    assert len(found) == len(expected) > 15_000
    assert list(found.captions(7)) == list(expected.captions(7))
    rows = [source.pairs().take(np.arange(len(source.pairs()))) for source in (found, expected)]
    assert rows[0].tolist() == rows[1].tolist()
    for start in range(0, len(found), 997):
        indices = [(start + 7919 * place) % len(found) for place in range(32)]
        records = zip(found.records(indices), expected.records(indices), strict=True)
        for one, other in records:
            assert without_attributes(one) == without_attributes(other)
            assert one.attributes.items() <= other.attributes.items()
    assert not list((ROOT / "data_modules" / "emoji").glob("*.places")), "nothing is written beside installed files"


def table(number: int = NUM) -> pa.Table:
    """Rows of 2,000 random bytes."""
    images = [{"bytes": np.random.default_rng(row).bytes(2000), "path": f"{row}.jpg"} for row in range(number)]
    return pa.table({"image": images, "ko": [f"고양이 {row}" for row in range(number)]})


def test_opening__writes_nothing_and_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        pq.write_table(table(), tmp_path / f"{number}.parquet", row_group_size=40)
    read: list[tuple[int, int]] = []
    really = os.pread

    def pread(descriptor: int, length: int, start: int) -> bytes:
        read.append((start, length))
        return really(descriptor, length, start)

    monkeypatch.setattr(os, "pread", pread)
    before = set(tmp_path.rglob("*"))
    source = open_source("s", SourceConfig(files=[f"{tmp_path}/*.parquet"], captions={"ko": "ko"}))
    assert len(source) == 3 * NUM
    assert set(tmp_path.rglob("*")) == before and not Path(datasets.config.HF_DATASETS_CACHE).exists()
    groups = [pq.read_metadata(tmp_path / "0.parquet").row_group(at) for at in range(3)]
    images = [group.column(0) for group in groups]
    assert [one.path_in_schema for one in images] == ["image.bytes"] * 3
    size = (tmp_path / "0.parquet").stat().st_size
    ends = [(start, length) for start, length in read if start + length == size]
    assert len(ends) == 3, "every footer once"
    for one in images:
        start = one.dictionary_page_offset
        touched = [part for part in read if part not in ends and start <= part[0] < start + one.total_compressed_size]
        assert not touched
    assert sum(length for _, length in read) < size
    assert source[5].image == table()["image"][5].as_py()["bytes"]
    index = [one.suffix for one in set(tmp_path.rglob("*")) - before]
    assert index == [".places"]


class Counting:
    """Requests of the in-memory filesystem."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[int, int]] = []
        kind = type(fsspec.filesystem("memory"))
        really = kind.cat_file

        def cat_file(own: object, path: str, start: int = 0, end: int = 0, **options: object) -> bytes:
            self.reads.append((start, end))
            return bytes(really(own, path, start, end, **options))

        monkeypatch.setattr(kind, "cat_file", cat_file)


def store(folder: Path) -> tuple[SourceConfig, SourceConfig]:
    """The same rows in a folder and in a store, in row groups of `GROUP`."""
    pq.write_table(table(), folder / "a.parquet", row_group_size=GROUP)
    fsspec.filesystem("memory").pipe_file("/parquet/a.parquet", (folder / "a.parquet").read_bytes())
    settings = {"captions": {"ko": "ko"}, "index_folder": str(folder / "index")}
    return (
        SourceConfig(files=[str(folder / "a.parquet")], **settings),
        SourceConfig(files=["memory://parquet/*.parquet"], cache_folder=str(folder / "cache"), **settings),
    )


def shuffled(step: int) -> list[int]:
    order = BatchOrder((NUM,), (1.0,), 12, 0, shuffle_window=4 * GROUP, run_length=GROUP)
    return [int(one) for one in order.batch(step)]


def test_store__with_a_window_a_row_group_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, remote = (open_source("s", one, 4 * GROUP, GROUP) for one in store(tmp_path))
    assert (local.reads_ahead, remote.reads_ahead) == (False, True)
    counting = Counting(monkeypatch)
    for step in range(NUM // 12):
        remote.prefetch(shuffled(step))
        assert remote.records(shuffled(step)) == local.records(shuffled(step))
    assert len(counting.reads) == len(set(counting.reads)) == NUM // GROUP


def test_store__without_a_window_the_records_are_the_same_and_the_log_says_what_to_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local, remote = store(tmp_path)
    source = open_source("s", remote)
    assert source.records(list(range(NUM))) == open_source("s", local).records(list(range(NUM)))
    assert any("run_length to the rows of a row group (10)" in one for one in caplog.messages)


def test_store__a_row_group_that_was_removed_from_the_disk_is_read_again(tmp_path: Path) -> None:
    local, remote = (open_source("s", one, 4 * GROUP, GROUP) for one in store(tmp_path))
    expected = local.records(list(range(NUM)))
    assert remote.records(list(range(NUM))) == expected
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            file.unlink()
    assert remote.records(list(range(NUM))) == expected


def test_store__what_is_absent_or_no_parquet_is_named() -> None:
    fsspec.filesystem("memory").pipe_file("/named/a.csv", b"a,b\n1,2\n")
    with pytest.raises(DataError, match=r"memory://named/a\.csv is read from a store, and of tables only parquet"):
        open_source("s", SourceConfig(files=["memory://named/a.csv"], captions={"ko": "ko"}))
    with pytest.raises(DataError, match=r"memory://named/b\.parquet cannot be read .*check the address"):
        open_source("s", SourceConfig(files=["memory://named/b.parquet"], captions={"ko": "ko"}))


def test_cache_bytes__of_a_window_and_never_more_than_all(tmp_path: Path) -> None:
    source = open_source("s", store(tmp_path)[0])
    assert isinstance(source, TableSource)
    slack, whole = 64 << 20, sum(int(one.sizes.sum()) for one in source.table.files.chunks.values())
    found = cache_bytes(source.config, source.table.files, Window(samples=2 * GROUP, run_length=GROUP))
    assert found - slack == pytest.approx(2.5 * 2 * 2 * whole / (NUM / GROUP), abs=1), "a run may lie in two groups"
    assert cache_bytes(source.config, source.table.files, Window(samples=9 * GROUP, run_length=1)) == whole + slack


def test_opening__a_damaged_page_of_captions_is_named(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    column = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(2)
    assert column.path_in_schema == "ko"
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[column.dictionary_page_offset : column.dictionary_page_offset + 50] = b"\xff" * 50
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"source 's': .*a\.parquet: the page at byte .*; restore it"):
        open_source("s", SourceConfig(files=[str(tmp_path / "a.parquet")], captions={"ko": "ko"}))


@pytest.mark.parametrize("workers", [1, 2])
def test_index_parquet__of_all_rows_is_that_which_reading_makes(tmp_path: Path, workers: int) -> None:
    pq.write_table(table(), tmp_path / "a.parquet", row_group_size=GROUP)
    config = SourceConfig(files=[str(tmp_path / "a.parquet")], captions={"ko": "ko"})
    source = open_source("s", config)
    expected = source.records(list(range(NUM)))
    (file,) = tmp_path.glob("*.places")
    content = file.read_bytes()
    assert len(content) == 24 * NUM
    file.unlink()
    told: list[tuple[int, int]] = []
    assert index_parquet(config, num_workers=workers, progress=lambda *done: told.append(done)) == (NUM, [file])
    assert file.read_bytes() == content and told[-1] == (NUM // GROUP, NUM // GROUP)
    assert open_source("s", config).records(list(range(NUM))) == expected


def test_index_parquet__that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    (tmp_path / "file").write_text("not a folder")
    config = SourceConfig(
        files=[str(tmp_path / "a.parquet")], captions={"ko": "ko"}, index_folder=str(tmp_path / "file")
    )
    with pytest.raises(DataError, match=r"the index .* cannot be written: set index_folder"):
        index_parquet(config)


def test_open_sources__those_with_the_same_settings_are_opened_once(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    config = SourceConfig(files=[str(tmp_path / "a.parquet")], captions={"ko": "ko"})
    opened: OpenedBefore = {}
    (first,) = open_sources({"s": config}, opened=opened)
    (second,) = open_sources({"s": replace(config)}, opened=opened)
    (other,) = open_sources({"s": replace(config, weight=0.5)}, opened=opened)
    assert first is second and other is not first


MEASURE = """
import resource, sys
from data_modules.loading import open_sources
from data_modules.sources.config import SourceConfig
def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before, peak = now(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
(source,) = open_sources({"s": SourceConfig(files=[sys.argv[1]], captions={"ko": "ko"})})
print(len(source), now() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - max(peak, before))
"""


@pytest.mark.slow
@pytest.mark.parametrize("group", [100, 1000, 10_000])
def test_opening__100_files_of_1_gb_adds_at_most_200_mb(tmp_path: Path, group: int) -> None:
    """The files are hard links to one, which the table cannot know; the disk has it once."""
    random = np.random.default_rng(0)
    first = tmp_path / "all-000.parquet"
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("ko", pa.string())])
    with pq.ParquetWriter(first, schema, compression="none") as writer:
        part, block = min(group, 4000), [{"bytes": random.bytes(25_000)} for _ in range(min(group, 4000))]
        for start in range(0, 40_000, group):
            rows = [block[row % part] for row in range(group)]
            texts = [f"고양이 {start + row} {random.bytes(16).hex()}" for row in range(group)]
            writer.write_table(pa.table({"image": rows, "ko": texts}, schema), row_group_size=group)
    assert first.stat().st_size > 1e9
    for number in range(1, 100):
        os.link(first, tmp_path / f"all-{number:03}.parquet")
    before = set(tmp_path.iterdir())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "all-*.parquet")]
    caches = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "copies"), "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=caches, check=True, capture_output=True, text=True).stdout.split()
    rows, added, peak = int(found[0]), float(found[1]), float(found[2])
    assert rows == 4_000_000
    assert max(added, peak) <= 200, (added, peak)
    left = {one for one in set(tmp_path.iterdir()) - before if one.suffix != ".places"}
    assert not left
