"""Remote reads that fail or hang: tried again with pauses that double, cut off, and counted in the end."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.sources import blobs
from data_modules.sources.blobs import BlobReader
from data_modules.sources.config import SourceConfig
from data_modules.sources.tar_source import TarSource
from tests.unit.data_modules.corpora import members, samples, write_tar

CONTENT = bytes(range(100))


@dataclass
class Plan:
    """What the next reads do: `fail`, `hang`, or anything else to work; no entry: work."""

    reads: list[str] = field(default_factory=list)
    calls: int = 0
    release: threading.Event = field(default_factory=threading.Event)


PLAN = Plan()


class UnsteadyFileSystem(MemoryFileSystem):
    """A filesystem in memory whose reads of ranges follow `PLAN`."""

    protocol = "unsteady"
    store: dict[str, Any] = {}  # noqa: RUF012  # fsspec's own layout
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("unsteady://", "memory://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        PLAN.calls += 1
        action = PLAN.reads.pop(0) if PLAN.reads else "work"
        if action == "fail":
            raise ConnectionError("the other side is busy")
        if action == "hang":
            PLAN.release.wait()
        return bytes(super().cat_file(path, start, end, **options))


@pytest.fixture
def plan() -> Iterator[Plan]:
    fsspec.register_implementation("unsteady", UnsteadyFileSystem, clobber=True)
    fsspec.filesystem("unsteady").pipe_file("/set/file", CONTENT)
    PLAN.reads, PLAN.calls, PLAN.release = [], 0, threading.Event()
    yield PLAN
    PLAN.release.set()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(blobs.time, "sleep", slept.append)
    return slept


def test_read__failures_are_tried_again_after_pauses_that_double(plan: Plan, pauses: list[float]) -> None:
    plan.reads = ["fail", "fail", "fail"]
    assert BlobReader().read("unsteady://set/file", 10, 5) == CONTENT[10:15]
    assert (plan.calls, pauses) == (4, [0.5, 1.0, 2.0])


@pytest.mark.usefixtures("pauses")
def test_read__a_file_that_keeps_failing_counts_as_failed_and_is_tried_once_from_then_on(
    plan: Plan,
) -> None:
    plan.reads = ["fail"] * 5
    reader = BlobReader()
    for calls in (4, 5):
        with pytest.raises(SampleFault, match="unsteady://set/file: the other side is busy") as raised:
            reader.read("unsteady://set/file", 0, 5)
        assert (raised.value.kind, plan.calls) == ("read_failed", calls)
    assert reader.read("unsteady://set/file", 0, 5) == CONTENT[:5], "the filesystem has recovered"


def test_read__a_hang_is_cut_off_and_tried_again(plan: Plan, pauses: list[float]) -> None:
    plan.reads = ["hang", "hang"]
    start = time.monotonic()
    assert BlobReader(timeout=0.1).read("unsteady://set/file", 0, 3) == CONTENT[:3]
    assert time.monotonic() - start >= 0.2
    assert (plan.calls, pauses) == (3, [0.5, 1.0])


@pytest.mark.usefixtures("pauses")
def test_read__hanging_for_ever_is_a_fault_that_says_so(plan: Plan) -> None:
    plan.reads = ["hang"] * 4
    with pytest.raises(SampleFault, match=r"unsteady://set/file: no answer within 0\.05 s") as raised:
        BlobReader(timeout=0.05).read("unsteady://set/file", 0, 3)
    assert (raised.value.kind, plan.calls) == ("read_failed", 4)


def test_read__a_missing_file_is_not_tried_again(plan: Plan, pauses: list[float]) -> None:
    with pytest.raises(SampleFault, match="unsteady://set/none"):
        BlobReader().read("unsteady://set/none", 0, 3)
    assert (plan.calls, pauses) == (1, [])


@pytest.mark.usefixtures("pauses")
def test_tar_source__the_limit_is_a_setting_of_the_source(plan: Plan, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", members(samples(3)))
    fsspec.filesystem("unsteady").pipe_file("/set/a.tar", file.read_bytes())
    config = SourceConfig(
        files=["unsteady://set/a.tar"],
        caption_fields=["txt"],
        index_folder=str(tmp_path),
        read_timeout_seconds=0.05,
    )
    source = TarSource("web", config)
    plan.reads, plan.calls = ["hang", "fail"], 0
    assert source[1].image == samples(3)[1].image
    assert plan.calls == 3
    plan.reads = ["hang"] * 4
    with pytest.raises(SampleFault, match=r"no answer within 0\.05 s") as raised:
        source[2]
    assert raised.value.kind == "read_failed"


@pytest.mark.usefixtures("pauses")
def test_tar_source__a_caption_that_cannot_be_read_ends_the_reading_of_captions(plan: Plan, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", members(samples(3)))
    fsspec.filesystem("unsteady").pipe_file("/set/a.tar", file.read_bytes())
    config = SourceConfig(files=["unsteady://set/a.tar"], caption_fields=["txt"], index_folder=str(tmp_path))
    source = TarSource("web", config)
    plan.reads = ["fail", "fail", "fail"]
    assert len(list(source.captions())) == 3, "the fourth attempt is answered"
    plan.reads = ["fail"] * 10
    with pytest.raises(DataError, match=r"source 'web': a caption cannot be read \(unsteady://set/a\.tar: .* busy\)"):
        list(source.captions())
