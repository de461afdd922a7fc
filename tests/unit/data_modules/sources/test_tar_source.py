"""Shards against the members they were written from, their index, and what it leaves out."""

import errno
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from data_modules import file_locks
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.records import PairRecord
from data_modules.sources import tar_index, tar_source
from data_modules.sources.config import SourceConfig
from data_modules.sources.tar_index import ROW_BYTES, ShardIndex, index_file
from data_modules.sources.tar_source import TarSource
from tests.unit.data_modules.corpora import faulty_members, members, picture, samples, write_shards, write_tar
from tests.unit.data_modules.one_by_one import records_alone, records_together

TXT = {"caption_fields": ["txt"]}
Members = list[tuple[str, bytes]]


def _source(*files: Path | str, **options: Any) -> TarSource:
    return TarSource("s", SourceConfig(files=[str(file) for file in files], **(options or TXT)))


def _keys(source: TarSource) -> list[str]:
    return [source[index].key for index in range(len(source))]


def _opening(source: TarSource) -> list[tuple[str, str]]:
    return [(report.kind, report.key) for report in source.opening_faults()]


def test_tar_source__gives_what_was_written(tmp_path: Path) -> None:
    corpus = samples(10)
    source = _source(write_shards(tmp_path, corpus, 4))
    assert len(source) == 10
    for index, one in enumerate(corpus):
        record = source[index]
        assert (record.key, record.image, record.caption, record.language) == one[:2] + one[3:]
        assert record.file_name == f"{one.key}.{one.ending}"
    assert source.opening_faults() == []
    assert list(source.captions()) == [(one.language, one.caption) for one in corpus]


def test_tar_source__captions_in_json_for_two_languages(tmp_path: Path) -> None:
    image = picture(0)
    metadata = json.dumps({"ko": "고양이", "en": "a cat", "words": ["cat", "pet"]}).encode()
    file = write_tar(tmp_path / "a.tar", [("1.jpg", image), ("1.json", metadata)])
    source = _source(file, captions={"ko": "ko", "en": "en"}, keywords={"en": "words"})
    assert [(source[i].language, source[i].caption, source[i].keywords) for i in range(2)] == [
        ("ko", "고양이", ()),
        ("en", "a cat", ("cat", "pet")),
    ]
    assert source.rows_of("en").take(np.array([0])).tolist() == [1]


def test_tar_source__several_captions_of_one_language(tmp_path: Path) -> None:
    metadata = json.dumps({"alt": "a cat", "machine": "cat on a mat", "empty": ""}).encode()
    file = write_tar(tmp_path / "a.tar", [("1.jpg", picture(0)), ("1.json", metadata), ("1.txt", b"Cat!")])
    record = _source(file, caption_fields=["txt", "alt", "empty", "machine"], language="en")[0]
    assert (record.caption, record.more_captions) == ("Cat!", ("a cat", "cat on a mat"))


@pytest.mark.parametrize("options", [TXT, {"caption_fields": ["caption"], "language_field": "lang"}])
def test_tar_source__rows_of_a_language_are_those_of_its_records(tmp_path: Path, options: dict[str, Any]) -> None:
    source = _source(write_shards(tmp_path, samples(31), 6), **options)
    for language in ("ko", "en"):
        rows = source.rows_of(language)
        indices = rows.take(np.arange(len(rows)))
        assert indices.tolist() == [index for index in range(31) if source[index].language == language]


def test_tar_source__members_of_a_sample_need_not_be_adjacent(tmp_path: Path) -> None:
    one, two = samples(2)
    mixed: Members = [
        (f"{one.key}.jpg", one.image),
        ("checksums.sha", b"no sample"),
        (f"{two.key}.txt", two.caption.encode()),
        (f"{one.key}.npy", b"an embedding" * 20_000),
        (f"{two.key}.png", two.image),
        (f"{one.key}.txt", one.caption.encode()),
    ]
    source = _source(write_tar(tmp_path / "a.tar", mixed))
    assert [(source[i].image, source[i].caption) for i in range(2)] == [(s.image, s.caption) for s in (one, two)]
    assert source.opening_faults() == []


def test_tar_source__left_out_members_are_counted_by_kind(tmp_path: Path) -> None:
    good = samples(3)
    content = [
        *members(good[:1]),
        ("lonely.jpg", picture(9)),
        ("wordy.txt", b"no image"),
        ("../leaves.jpg", picture(8)),
        ("../leaves.txt", b"out"),
        ("/root.jpg", picture(7)),
        (f"{good[0].key}.jpg", picture(6)),
        (f"{good[0].key}.txt", b"another"),
        *members(good[1:]),
    ]
    source = _source(write_tar(tmp_path / "a.tar", content))
    assert [source[i].caption for i in range(len(source))] == [one.caption for one in good]
    assert source[0].image == good[0].image, "the first of two members counts"
    assert sorted(_opening(source)) == [
        ("caption_missing", "lonely"),
        ("duplicate_key", f"{good[0].key}.jpg"),
        ("duplicate_key", f"{good[0].key}.txt"),
        ("image_missing", "wordy"),
        ("unsafe_name", "../leaves.jpg"),
        ("unsafe_name", "../leaves.txt"),
        ("unsafe_name", "/root.jpg"),
    ]


def test_tar_source__cut_damaged_and_unreadable_shards(tmp_path: Path) -> None:
    corpus = samples(6)
    pattern = write_shards(tmp_path, corpus, 3)
    cut = tmp_path / "00001.tar"
    cut.write_bytes(cut.read_bytes()[:5000])
    (tmp_path / "00002.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "00003.tar").mkdir()
    source = _source(pattern)
    assert _keys(source) == [one.key for one in corpus[: len(source)]]
    assert len(source) >= 3
    assert [kind for kind, _ in _opening(source)] == ["shard_cut", "shard_damaged", "shard_unreadable"]


def test_tar_source__nothing_usable(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", [("a.jpg", b"x")])
    with pytest.raises(DataError, match=r"source 's' has no usable sample in 1 shard.*caption_missing in a"):
        _source(file)


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff\xfe", b'"text"'])
def test_tar_source__json_that_is_no_object_is_a_fault_of_its_sample(tmp_path: Path, damage: bytes) -> None:
    file = write_tar(tmp_path / "a.tar", [("1.jpg", picture(0)), ("1.json", damage)])
    source = _source(file, caption_fields=["c"], language="ko")
    with pytest.raises(SampleFault) as raised:
        source[0]
    assert raised.value.kind == "metadata_undecodable"
    assert raised.value.key.endswith("a.tar#0")


def test_index__is_small_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = write_shards(tmp_path, samples(50), 20)
    config = SourceConfig(files=[pattern], **TXT)
    source = TarSource("s", config)
    file = index_file(config, source.index.shards)
    assert file.parent == tmp_path
    assert ROW_BYTES == 24
    assert source.index.rows(10, 13).shape == (3, 6)
    monkeypatch.setattr(tar_index, "scan_shard", lambda *_: pytest.fail("scanned again"))
    assert len(TarSource("s", config)) == 50


def test_index__only_changed_and_new_shards_are_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = write_shards(tmp_path, samples(9), 3)
    _source(pattern)
    scanned: list[str] = []
    scan = tar_index.scan_shard
    monkeypatch.setattr(tar_index, "scan_shard", lambda c, path: scanned.append(Path(path).name) or scan(c, path))
    changed = samples(2, start=100)
    write_tar(tmp_path / "00001.tar", members(changed))
    write_tar(tmp_path / "00003.tar", members(samples(1, start=200)))
    source = _source(pattern)
    assert scanned == ["00001.tar", "00003.tar"]
    keys = _keys(source)
    assert keys == [one.key for one in [*samples(3), *changed, *samples(9)[6:], *samples(1, start=200)]]


def test_index__another_language_rule_needs_another_index(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, samples(4), 4)
    plain = _source(pattern, caption_fields=["txt"], language="ko")
    assert len(plain.rows_of("ko")) == 4
    detected = _source(pattern)
    assert plain.index.file != detected.index.file
    assert len(detected.rows_of("ko")) == 2


def _interrupted_at_third_scan(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are scanned from now on; the third scan is interrupted."""
    scan, calls = tar_index.scan_shard, list[str]()

    def scan_or_stop(config: SourceConfig, path: str) -> Any:
        calls.append(Path(path).name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scan(config, path)

    monkeypatch.setattr(tar_index, "scan_shard", scan_or_stop)
    return calls


def test_index__an_interrupted_build_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = samples(12)
    pattern = write_shards(tmp_path, corpus, 3)
    calls = _interrupted_at_third_scan(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _source(pattern)
    rows = next(tmp_path.glob("*.rows"))
    assert rows.stat().st_size == 6 * ROW_BYTES
    rows.write_bytes(rows.read_bytes() + b"\1" * 30)  # as if it was killed while it wrote the third shard
    source = _source(pattern)
    assert calls == ["00000.tar", "00001.tar", "00002.tar", "00002.tar", "00003.tar"]
    assert _keys(source) == [one.key for one in corpus]


def _on_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tar_index.socket, "gethostname", lambda: name)


@pytest.mark.parametrize("damage", [False, True])
def test_index__what_another_machine_has_scanned_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bool
) -> None:
    corpus = samples(12)
    pattern = write_shards(tmp_path, corpus, 3)
    calls = _interrupted_at_third_scan(monkeypatch)
    _on_host(monkeypatch, "first.local")
    with pytest.raises(KeyboardInterrupt):
        _source(pattern)
    rows, lines = next(tmp_path.glob("*.first.local.rows")), next(tmp_path.glob("*.first.local.lines"))
    if damage:
        rows.write_bytes(bytes([rows.read_bytes()[0] ^ 1]) + rows.read_bytes()[1:])
    _on_host(monkeypatch, "second")
    source = _source(pattern)
    assert calls[3:] == ["00000.tar"] * damage + ["00002.tar", "00003.tar"]
    assert _keys(source) == [one.key for one in corpus]
    assert rows.is_file(), "the other machine may still be at it"
    for one in (rows, lines, source.index.file):
        os.utime(one, (0, 0))
    source.index.file.unlink()
    assert _keys(_source(pattern)) == [one.key for one in corpus]
    assert not any(tmp_path.glob("*.rows")), "a day later it is not"
    assert not any(tmp_path.glob("*.lines"))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_index__on_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Beside the shards there are none; those in the folder for temporary files are tried all the same."""
    corpus, locked = samples(5), []

    def flock(lock: Any, _: int) -> None:
        locked.append(Path(lock.name).parent)
        if locked[-1] == tmp_path:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(file_locks.fcntl, "flock", flock)
    assert _keys(_source(write_shards(tmp_path, corpus, 3))) == [one.key for one in corpus]
    assert locked == [Path(tempfile.gettempdir()), tmp_path]


def test_index__two_machines_at_once_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second builds and ends while the first is scanning; both read the same index."""
    corpus = samples(12)
    pattern = write_shards(tmp_path, corpus, 3)
    scan = tar_index.scan_shard
    monkeypatch.setattr(file_locks.fcntl, "flock", lambda *_: None)
    _on_host(monkeypatch, "first")
    found: list[Any] = []

    def scan_beside_another(config: SourceConfig, path: str) -> Any:
        if Path(path).name == "00002.tar" and not found:
            found.append(None)
            _on_host(monkeypatch, "second")
            found[0] = _keys(_source(pattern))
            _on_host(monkeypatch, "first")
        return scan(config, path)

    monkeypatch.setattr(tar_index, "scan_shard", scan_beside_another)
    source = _source(pattern)
    assert _keys(source) == found[0] == [one.key for one in corpus]
    assert not any(tmp_path.glob("*.rows"))


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_index__a_damaged_one_is_rebuilt(tmp_path: Path, damage: str) -> None:
    pattern = write_shards(tmp_path, samples(5), 5)
    file = _source(pattern).index.file
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-20], "garbage": b"x" * 100, "empty": b""}[damage])
    with pytest.raises(ValueError, match="index"):
        ShardIndex(file)
    assert len(_source(pattern)) == 5


def test_index__in_a_folder_of_its_own_or_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = write_shards(tmp_path / "data", samples(3), 3)
    own = _source(pattern, caption_fields=["txt"], index_folder=str(tmp_path / "own"))
    assert own.index.file.parent == tmp_path / "own"
    monkeypatch.setattr(tar_index, "CACHE_FOLDER", tmp_path / "cache")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert _source(pattern).index.file.parent == tmp_path / "cache"


def test_tar_source__a_shard_that_changed_after_opening_is_a_fault(tmp_path: Path) -> None:
    corpus = samples(4)
    pattern = write_shards(tmp_path, corpus, 4)
    source = _source(pattern)
    write_tar(tmp_path / "00000.tar", members(samples(4, start=50))[3:])
    for index in range(4):
        with pytest.raises(SampleFault, match="shard_changed"):
            source[index]


def test_tar_source__on_an_fsspec_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_index, "CACHE_FOLDER", tmp_path / "cache")
    corpus = samples(7)
    write_shards(tmp_path, corpus, 4)
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe_file(f"/set/{number:05d}.tar", (tmp_path / f"{number:05d}.tar").read_bytes())
    for pattern in ("memory://set/*.tar", "memory://set/{00000..00001}.tar"):
        source = _source(pattern)
        assert [(source[i].key, source[i].image, source[i].caption) for i in range(7)] == [
            (one.key, one.image, one.caption) for one in corpus
        ]
    with pytest.raises(DataError, match="no file matches 'memory://nowhere/"):
        _source("memory://nowhere/*.tar")


ANY_ORDER = [11, 3, 3, 0, 25, 24, 7, 11, 17, 1]


def test_records__are_those_read_alone_in_any_order(tmp_path: Path) -> None:
    corpus = samples(26)
    source = _source(write_shards(tmp_path, corpus, 4))
    found = records_together(source, ANY_ORDER)
    assert found == records_alone(source, ANY_ORDER)
    assert [(one.key, one.image, one.caption) for one in found] == [
        (corpus[i].key, corpus[i].image, corpus[i].caption) for i in ANY_ORDER
    ]
    assert source.records([]) == []


def test_records__of_every_fault_are_those_read_alone(tmp_path: Path) -> None:
    content, _ = faulty_members(5, 1)
    for name in ("x", "y"):
        content += [(f"{name}.jpg", picture(3)), (f"{name}.json", b"[1, 2]" if name == "x" else b'{"ko": "\xff"}')]
    source = _source(write_tar(tmp_path / "a.tar", content), captions={"ko": "ko", "en": "txt"})
    indices = [*range(len(source))][::-1]
    found = records_together(source, indices)
    assert found == records_alone(source, indices)
    assert {one[0] for one in found if isinstance(one, tuple)} >= {"metadata_undecodable", "caption_missing"}
    assert any(isinstance(one, PairRecord) for one in found)


def test_records__a_fault_stays_with_its_row(tmp_path: Path) -> None:
    """A changed member, a shard that is gone and a shard that became shorter, among whole ones."""
    corpus = samples(24)
    source = _source(write_shards(tmp_path, corpus, 4))
    source[0]  # its shard is open, and stays readable
    whole = records_alone(source, range(24))
    changed = bytearray((tmp_path / "00001.tar").read_bytes())
    changed[148] = ord("7")  # the checksum of the first member
    (tmp_path / "00001.tar").write_bytes(changed)
    source._reader._open.clear()
    (tmp_path / "00002.tar").unlink()
    with (tmp_path / "00003.tar").open("rb+") as stream:
        stream.truncate(3 * 512)
    indices = [*range(23, -1, -1)]
    found = records_together(source, indices)
    assert found == records_alone(source, indices)
    by_index = dict(zip(indices, found, strict=True))
    kinds = {index: one[0] for index, one in by_index.items() if isinstance(one, tuple)}
    expected = {4: "shard_changed"} | dict.fromkeys(range(8, 12), "read_failed")
    assert kinds == expected | dict.fromkeys(range(12, 16), "shard_changed")
    assert [by_index[i] for i in range(24) if i not in kinds] == [whole[i] for i in range(24) if i not in kinds]
    assert by_index[9][2] == f"{tmp_path / '00002.tar'}#{source.index.rows(9, 10)[0, 0]}", "where it would be"


def test_records__members_apart_are_read_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = members(samples(6))
    source = _source(write_tar(tmp_path / "a.tar", content[::3] + content[2::3]))
    near = records_together(source, range(6))
    monkeypatch.setattr(tar_source, "_MAX_GAP_BYTES", 0)
    assert records_together(source, range(6)) == near
    assert [one.caption for one in near] == [one.caption for one in samples(6)]


def test_records__an_index_that_is_gone_is_a_fault_of_each(tmp_path: Path) -> None:
    source = _source(write_shards(tmp_path, samples(5), 4))
    source.index.file.unlink()
    assert [one[0] for one in records_together(source, [4, 0, 1])] == ["read_failed"] * 3


@pytest.mark.parametrize("gap", [0, 1, 5, 1000])
def test_take__rows_of_any_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: int) -> None:
    index = _source(write_shards(tmp_path, samples(40), 7)).index
    rows = index.rows(0, 40)
    monkeypatch.setattr(tar_index, "_MAX_GAP_ROWS", gap)
    for numbers in ([0], [39], [5, 5], [39, 0, 20, 21, 19, 3], list(range(40))[::-1]):
        assert index.take(np.array(numbers)).tolist() == rows[numbers].tolist()
        assert index.shards_of(np.array(numbers)).tolist() == [number // 7 for number in numbers]


@pytest.mark.slow
def test_index__ten_million_entries_open_in_little_memory(tmp_path: Path) -> None:
    rows = np.zeros((10_000_000, 6), dtype="<u4")
    rows[:, 1] = np.arange(10_000_000) % 50_000
    file = tmp_path / "large.index"
    shards = [{"path": f"{i:06d}.tar", "size": 1, "version": "", "samples": 10_000, "faults": []} for i in range(1000)]
    description = json.dumps({"rule": "", "shards": shards}).encode()
    file.write_bytes(rows.tobytes() + description + len(description).to_bytes(8, "little") + tar_index.MAGIC)
    del rows
    before = _resident_bytes()
    start = time.process_time()
    index = ShardIndex(file)
    opened = time.process_time() - start
    places = np.random.default_rng(0).integers(0, 10_000_000, 1000)
    start = time.process_time()
    found = [
        (index.shards[shard], int(row[1]))
        for shard, row in zip(index.shards_of(places), index.take(places), strict=True)
    ]
    sought = (time.process_time() - start) / 1000
    assert found == [(f"{i // 10_000:06d}.tar", i % 50_000) for i in places]
    assert _resident_bytes() - before < 200e6
    print(f"opened in {opened:.3f} s, a seek in {1000 * sought:.4f} ms")  # noqa: T201  # measured, not asserted
    assert len(index) == 10_000_000


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_key__is_the_name_up_to_the_first_dot_of_its_last_part(tmp_path: Path) -> None:
    content = [(f"v1.0/{one.key}.jpg", one.image) for one in samples(2)]
    content += [(f"v1.0/{one.key}.txt", one.caption.encode()) for one in samples(2)]
    source = _source(write_tar(tmp_path / "a.tar", content))
    assert _keys(source) == [f"v1.0/{one.key}" for one in samples(2)]
