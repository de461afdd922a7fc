"""Runs on the local disk: read once by all processes, removed in the order of writing, and never an obstacle."""

import os
import time
from pathlib import Path

import pytest

from data_modules.sources import run_cache
from data_modules.sources.blobs import Span
from data_modules.sources.run_cache import Run, RunCache
from tests.unit.data_modules.steps_store import CONTENT, URL, Seen, open_steps


@pytest.fixture
def seen() -> Seen:
    return open_steps()


def new_cache(folder: Path, max_bytes: int = 1 << 20) -> RunCache:
    return RunCache(folder / "runs", max_bytes, timeout=5.0, in_flight=8)


def run_at(start: int, length: int = 100, second: int | None = None) -> Run:
    more = () if second is None else (Span(URL, second, length),)
    return Run((Span(URL, start, length), *more), "v1")


def test_place_of__a_part_of_a_run_in_its_file() -> None:
    run = run_at(1000, second=5000)
    assert run.place_of(Span(URL, 1000, 100)) == 0
    assert run.place_of(Span(URL, 1040, 10)) == 40
    assert run.place_of(Span(URL, 5030, 70)) == 130
    assert run.place_of(Span(URL, 5031, 70)) is None
    assert run.place_of(Span("steps://set/other", 1000, 10)) is None
    assert len({run.name, run._replace(version="v2").name, run_at(1000).name}) == 3


def test_require__a_run_is_read_once_in_one_request_for_each_span(tmp_path: Path, seen: Seen) -> None:
    cache, runs = new_cache(tmp_path), [run_at(0), run_at(3000, second=9000), run_at(0)]
    files = cache.require(runs)
    assert [files[run].read_bytes() for run in runs if files[run]] == [
        CONTENT[:100],
        CONTENT[3000:3100] + CONTENT[9000:9100],
        CONTENT[:100],
    ]
    assert sorted(seen.ranges) == [(0, 100), (3000, 3100), (9000, 9100)]
    new_cache(tmp_path).require(runs)
    assert len(seen.ranges) == 3, "another process finds the files"


def test_prefetch__reads_in_the_background_and_require_waits_for_it(tmp_path: Path, seen: Seen) -> None:
    cache, runs = new_cache(tmp_path), [run_at(1000 * number) for number in range(6)]
    cache.prefetch(runs)
    cache.prefetch(runs)
    assert all(cache.require(runs).values())
    assert len(seen.ranges) == 6


def test_close__nothing_is_written_afterwards(tmp_path: Path, seen: Seen) -> None:
    cache, runs = new_cache(tmp_path), [run_at(100 * number) for number in range(200)]
    cache.prefetch(runs)
    cache.close()
    read, files = len(seen.ranges), sorted((tmp_path / "runs").iterdir())
    assert read == len(files) < len(runs), "reads that had not begun are dropped"
    assert {file.suffix for file in files} <= {""}
    time.sleep(0.2)
    assert (len(seen.ranges), sorted((tmp_path / "runs").iterdir())) == (read, files)
    assert all(cache.require(runs[:3]).values()), "a later call begins anew"
    cache.close()
    cache.close()


def test_require__several_processes_read_each_run_once(tmp_path: Path, seen: Seen) -> None:
    log, children = tmp_path / "log", []
    for _ in range(3):
        child = os.fork()
        if not child:
            code = 1
            try:
                files = new_cache(tmp_path).require([run_at(1000 * number) for number in range(20)])
                code = 0 if all(file and file.stat().st_size == 100 for file in files.values()) else 2
                with log.open("a") as stream:
                    stream.write(f"{len(seen.ranges)}\n")
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert sum(map(int, log.read_text().split())) == 20
    assert {file.suffix for file in (tmp_path / "runs").iterdir()} == {""}


def test_require__goes_on_after_a_process_that_was_killed_while_it_wrote(tmp_path: Path, seen: Seen) -> None:
    cache, run = new_cache(tmp_path), run_at(0)
    child = os.fork()
    if not child:
        seen.actions = ["hang"]
        new_cache(tmp_path).require([run])
        os._exit(0)
    lock = cache.file_of(run).with_suffix(".lock")
    deadline = time.monotonic() + 20
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    (file,) = cache.require([run]).values()
    assert file is not None
    assert file.read_bytes() == CONTENT[:100]


@pytest.mark.usefixtures("seen")
def test_make_room__the_first_files_go_and_what_a_killed_process_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_cache, "_CHECK_EVERY", 1)
    cache, runs = new_cache(tmp_path, max_bytes=1000), [run_at(1000 * number) for number in range(30)]
    old = tmp_path / "runs" / "left.partial"
    old.parent.mkdir()
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * run_cache._ABANDONED_SECONDS,) * 2)
    for number, run in enumerate(runs):
        (file,) = cache.require([run]).values()
        assert file is not None
        os.utime(file, (1000 + number, 1000 + number))
    cache._make_room()
    left = {file.name for file in (tmp_path / "runs").iterdir()}
    assert left == {run.name for run in runs[-len(left) :]}
    assert 5 <= len(left) <= 10
    (again,) = cache.require(runs[:1]).values()
    assert again is not None
    assert again.read_bytes() == CONTENT[:100]


@pytest.mark.usefixtures("seen")
def test_require__a_disk_that_takes_nothing_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache, really = new_cache(tmp_path), Path.open

    def full(path: Path, mode: str = "r") -> object:
        if path.suffix == ".partial":
            raise OSError(28, "No space left on device")
        return really(path, mode)

    monkeypatch.setattr(Path, "open", full)
    assert list(cache.require([run_at(0), run_at(5000)]).values()) == [None, None]
    assert list(cache.require([run_at(9000)]).values()) == [None]
    assert sum("No space left" in one.message for one in caplog.records) == 1
