"""Fingerprints of sources: what changes them, what does not, and how differences are described."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from data_modules.sources.config import SourceConfig, SourceFormat
from data_modules.sources.fingerprint import (
    FileFingerprint,
    SourceFingerprint,
    all_source_changes,
    file_changes,
    source_changes,
    source_fingerprints,
    table_fingerprint,
)
from data_modules.sources.tables import TableSource
from data_modules.sources.tar_index import ROW_BYTES, ShardIndex
from tests.unit.data_modules.corpora import FORMATS, members, samples, write_csv, write_shards, write_source, write_tar

CORPUS = samples(20)


def fingerprint(config: SourceConfig) -> SourceFingerprint:
    return source_fingerprints({"one": config})["one"]


def shards(folder: Path) -> SourceConfig:
    return SourceConfig(files=[str(folder / "*.tar")], caption_fields=["txt"])


def parquet(file: Path, captions: list[str]) -> SourceConfig:
    images = [{"bytes": one.image} for one in CORPUS[: len(captions)]]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "caption": captions}), file)
    return SourceConfig(files=[str(file)], caption_fields=["caption"], language="en")


@pytest.mark.parametrize("kind", FORMATS)
def test_source_fingerprints__the_same_data_elsewhere_and_later(kind: str, tmp_path: Path) -> None:
    config = write_source(kind, tmp_path / "a" / "here", CORPUS)
    before = fingerprint(config)
    shutil.move(tmp_path / "a", tmp_path / "b")
    config.files = [config.files[0].replace(str(tmp_path / "a"), str(tmp_path / "b"))]
    for file in (tmp_path / "b").rglob("*"):
        os.utime(file, (1, 1))
    after = fingerprint(config)
    assert after == before
    assert after.digest == before.digest
    assert before.num_samples == len(CORPUS)
    assert before.files
    assert not any(str(tmp_path) in json.dumps(one.to_plain()) for one in (before, after))


@pytest.mark.parametrize("kind", FORMATS)
def test_source_fingerprint__survives_json(kind: str, tmp_path: Path) -> None:
    before = fingerprint(write_source(kind, tmp_path, CORPUS))
    assert SourceFingerprint.from_plain(json.loads(json.dumps(before.to_plain()))) == before


def test_source_fingerprints__of_shards_is_the_size_and_the_count_of_each(tmp_path: Path) -> None:
    write_shards(tmp_path, CORPUS, 7)
    found = fingerprint(shards(tmp_path))
    assert [(one.name, one.size, one.num_rows) for one in found.files] == [
        (f"{i:05d}.tar", (tmp_path / f"{i:05d}.tar").stat().st_size, count) for i, count in enumerate((7, 7, 6))
    ]


def test_source_fingerprints__a_shard_added_removed_or_exchanged(tmp_path: Path) -> None:
    write_shards(tmp_path, CORPUS, 7)
    before = fingerprint(shards(tmp_path))
    write_tar(tmp_path / "00003.tar", members(samples(3, start=50)))
    added = fingerprint(shards(tmp_path))
    assert [one.name for one in added.files] == [*(one.name for one in before.files), "00003.tar"]
    assert added.num_samples == 23
    (tmp_path / "00003.tar").unlink()
    assert fingerprint(shards(tmp_path)) == before
    old = tmp_path / "00002.tar"
    size = old.stat().st_size
    write_tar(old, members(samples(6, start=60)))
    exchanged = fingerprint(shards(tmp_path))
    assert old.stat().st_size == size, "a tar is padded, so its size does not show the change"
    assert exchanged.num_samples == before.num_samples
    assert exchanged.digest != before.digest


def test_source_fingerprints__an_index_without_digests_is_completed_without_a_scan(tmp_path: Path) -> None:
    write_shards(tmp_path, CORPUS, 7)
    before = fingerprint(shards(tmp_path))
    file = next(tmp_path.glob("*.index"))
    index, content = ShardIndex(file), file.read_bytes()
    entries = [{key: value for key, value in entry.items() if key != "digest"} for entry in index.entries]
    description = json.dumps({"rule": index.rule, "shards": entries}).encode()
    rows = content[: len(index) * ROW_BYTES]
    file.write_bytes(rows + description + len(description).to_bytes(8, "little") + content[-8:])
    for shard in tmp_path.glob("*.tar"):  # a scan would find no samples
        shard.write_bytes(bytes(shard.stat().st_size))
        entry = next(one for one in index.entries if one["path"] == str(shard))
        os.utime(shard, ns=(int(entry["version"]), int(entry["version"])))
    assert fingerprint(shards(tmp_path)) == before


def test_source_fingerprints__of_shards_behind_an_address(tmp_path: Path) -> None:
    write_shards(tmp_path, CORPUS, 7)
    filesystem = fsspec.filesystem("memory")
    for file in tmp_path.glob("*.tar"):
        filesystem.pipe_file(f"/bucket/set/{file.name}", file.read_bytes())
    remote = replace(shards(tmp_path), files=["memory://bucket/set/*.tar"], index_folder=str(tmp_path / "index"))
    assert fingerprint(remote) == fingerprint(shards(tmp_path))


@pytest.mark.parametrize("change", ["a row more", "another caption of the same length"])
def test_source_fingerprints__of_parquet_sees(change: str, tmp_path: Path) -> None:
    captions = [f"caption {i:03d}" for i in range(12)]
    before = fingerprint(parquet(tmp_path / "a.parquet", captions))
    assert [(one.name, one.num_rows) for one in before.files] == [("a.parquet", 12)]
    other = [*captions, "one more"] if change == "a row more" else [*captions[:-1], "caption 999"]
    after = fingerprint(parquet(tmp_path / "a.parquet", other))
    assert after.digest != before.digest
    assert after.num_samples == len(other)
    assert fingerprint(parquet(tmp_path / "a.parquet", captions)) == before


def test_source_fingerprints__of_a_text_table_sees_an_edit_of_the_same_length(tmp_path: Path) -> None:
    file = Path(write_csv(tmp_path, CORPUS))
    config = SourceConfig(files=[str(file)], caption_fields=["caption"], language_field="lang")
    before = fingerprint(config)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"picture number 7", b"picture number 8"))
    assert fingerprint(config).digest != before.digest
    file.write_bytes(content)
    assert fingerprint(config) == before


def test_table_fingerprint__of_a_large_text_table_reads_a_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    with file.open("wb") as stream:
        stream.truncate(5 << 30)  # sparse: reading it whole would take seconds
        stream.seek(0)
        stream.write(b"image,caption\n")
    before = table_fingerprint([str(file)])
    with file.open("r+b") as stream:
        stream.seek(0)
        stream.write(b"image,caqtion\n")
    assert table_fingerprint([str(file)])[0].digest != before[0].digest


def test_source_fingerprints__names_start_at_the_folder_without_wildcards(tmp_path: Path) -> None:
    for folder in ("ko", "en"):
        write_shards(tmp_path / folder, CORPUS, 20)
    for patterns, order in ((["{ko,en}"], ["ko", "en"]), (["*"], ["en", "ko"]), (["ko", "en"], ["ko", "en"])):
        config = SourceConfig(files=[str(tmp_path / one / "*.tar") for one in patterns], caption_fields=["txt"])
        assert [one.name for one in fingerprint(config).files] == [f"{folder}/00000.tar" for folder in order]


def test_source_fingerprints__of_a_dataset_without_files_here_is_its_own() -> None:
    config = SourceConfig(files=["somebody/pairs"], caption_fields=["caption"], language="en")
    table = datasets.Dataset.from_dict({"image": [b"-"], "caption": ["one"]})

    def found(version: str) -> SourceFingerprint:
        opened = [TableSource("one", config, table, version=version)]
        return source_fingerprints({"one": config}, opened)["one"]

    assert (found("0a").version, found("0a").files) == ("0a", ())
    assert found("0a").digest != found("0b").digest


@pytest.mark.parametrize("stream", [None, 4])
def test_source_fingerprints__of_a_folder_of_images(stream: int | None, tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    for one in CORPUS[:4]:
        (place / f"{one.key}.png").write_bytes(one.image)
    lines = [json.dumps({"file_name": f"{one.key}.png", "caption": one.caption}) for one in CORPUS[:4]]
    (place / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = SourceConfig(files=[str(place)], caption_fields=["caption"], language="en", stream_length=stream)
    config.format = SourceFormat.dataset
    before = fingerprint(config)
    assert before.format == ("dataset" if stream is None else "stream")
    assert [one.name for one in before.files] == [*(f"{one.key}.png" for one in CORPUS[:4]), "metadata.jsonl"]
    for file in place.iterdir():
        os.utime(file, (1, 1))
    assert fingerprint(config) == before
    image = place / f"{CORPUS[0].key}.png"
    image.write_bytes(image.read_bytes() + b"-")
    assert fingerprint(config).digest != before.digest


@pytest.mark.parametrize(
    ("setting", "value"),
    [("where", {"lang": ["ko"]}), ("language", "ko"), ("caption_fields", ["key"])],
)
def test_source_fingerprints__settings_that_select_count(setting: str, value: Any, tmp_path: Path) -> None:
    config = SourceConfig(files=[write_csv(tmp_path, CORPUS)], caption_fields=["caption"], language="en")
    before = fingerprint(config)
    assert fingerprint(replace(config, **{setting: value})).digest != before.digest


def test_source_fingerprints__weights_and_time_limits_do_not_count(tmp_path: Path) -> None:
    config = write_source("shards", tmp_path, CORPUS)
    before = fingerprint(config)
    config.weight, config.read_timeout_seconds = 3.0, 5.0
    assert fingerprint(config) == before


def test_source_fingerprints__a_file_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parquet(tmp_path / "a.parquet", ["one", "two"])

    def vanish(_: Path) -> Any:
        raise OSError("no such file")

    monkeypatch.setattr(pq, "read_metadata", vanish)
    with pytest.raises(DataError, match=r"a\.parquet is damaged \(no such file\); restore it"):
        fingerprint(config)


def shard(name: str, size: int = 10_240, num_rows: int = 5, digest: str = "d") -> FileFingerprint:
    return FileFingerprint(name=name, size=size, num_rows=num_rows, digest=digest)


A, B, C = shard("a.tar"), shard("b.tar"), shard("c.tar")
SOURCE = SourceFingerprint(
    format="shards", num_samples=10, selection={"where": {}, "language": "ko"}, files=(A, B), version=""
)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((A, B), []),
        ((A, B, C), ["c.tar added"]),
        ((A,), ["b.tar removed"]),
        ((B, A), ["the same files in another order"]),
        ((A, shard("b.tar", size=20_480)), ["b.tar changed (20,480 bytes, not 10,240 bytes)"]),
        ((A, shard("b.tar", num_rows=6)), ["b.tar changed (6 rows, not 5)"]),
        ((A, shard("b.tar", digest="e")), ["b.tar changed (other content of the same size)"]),
        ((A, shard("b.tar", size=-1)), ["b.tar changed (unreadable, not 10,240 bytes)"]),
        ((A, A, B), ["a.tar added"]),
        (
            (C, shard("b.tar", digest="e")),
            ["c.tar added", "a.tar removed", "b.tar changed (other content of the same size)"],
        ),
    ],
)
def test_file_changes__name_what_happened(after: tuple[FileFingerprint, ...], expected: list[str]) -> None:
    assert file_changes((A, B), after) == expected


def test_file_changes__of_many_files_are_counted() -> None:
    before = [shard(f"{i}.tar") for i in range(9)]
    assert file_changes([], before) == ["0.tar, 1.tar, 2.tar and 6 more added"]
    changed = file_changes(before, [replace(one, size=1) for one in before])
    assert len(changed) == 4
    assert changed[-1] == "6 more files changed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"num_samples": 1200}, ["1,200 pairs, not 10"]),
        ({"format": "table"}, ["read as table, not as shards"]),
        ({"selection": {"where": {"a": ["b"]}, "language": "ko"}}, ["another `where`"]),
        ({"selection": {"where": {}, "language": "ko", "added by a newer version": 1}}, []),
        ({"version": "0a"}, ["fingerprint 0a of the dataset, not none"]),
        ({"files": (A,), "num_samples": 5}, ["b.tar removed", "5 pairs, not 10"]),
    ],
)
def test_source_changes__name_what_happened(change: dict[str, object], expected: list[str]) -> None:
    assert source_changes(SOURCE, replace(SOURCE, **change)) == expected


def test_all_source_changes__one_sentence_a_source() -> None:
    assert not list(all_source_changes({"web": SOURCE}, {"web": SOURCE}))
    after = {"web": replace(SOURCE, files=(A, B, C), num_samples=15), "new": SOURCE}
    assert list(all_source_changes({"web": SOURCE, "old": SOURCE}, after)) == [
        "source 'web': c.tar added, 15 pairs, not 10",
        "source 'old' is gone",
        "source 'new' is new",
    ]
