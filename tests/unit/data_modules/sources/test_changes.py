"""What differs between two fingerprints, in words."""

from dataclasses import replace

import pytest

from data_modules.sources.fingerprint import (
    FileFingerprint,
    SourceFingerprint,
    all_source_changes,
    file_changes,
    source_changes,
)


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
