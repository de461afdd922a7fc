"""The phases of a run: which seconds belong to which, and timing.json."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs import timing
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.timing import PhaseClock, Session, clocked, phase, read_sessions, recorded_phases


class Ticks:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    found = Ticks()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: found.now)
    return found


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_phase__seconds_belong_to_the_innermost_one(ticks: Ticks) -> None:
    with PhaseClock().active() as clock:
        ticks.pass_by(1)
        with phase("contrastive"):
            ticks.pass_by(2)
            with phase("steps"):
                ticks.pass_by(4)
                with phase("loader"):
                    ticks.pass_by(8)
                ticks.pass_by(16)
                with phase("loader"):
                    ticks.pass_by(32)
        ticks.pass_by(64)
    assert clock.seconds() == {
        "other": 65, "contrastive": 2, "contrastive/steps": 20, "contrastive/steps/loader": 40,
    }  # fmt: skip
    assert sum(clock.seconds().values()) == ticks.now - 100


def test_phase__as_a_decorator_and_in_a_generator(ticks: Ticks) -> None:
    @phase("export")
    def export(seconds: float) -> str:
        ticks.pass_by(seconds)
        return "done"

    def batches() -> Iterator[int]:
        for number in range(2):
            with phase("loader"):
                ticks.pass_by(1)
            yield number

    with PhaseClock().active() as clock:
        assert export(3) == export(4) == "done"
        for _ in batches():
            ticks.pass_by(10)
    assert clock.seconds() == {"other": 20, "export": 7, "loader": 2}


def test_phase__an_error_ends_it(ticks: Ticks) -> None:
    @phase("outer")
    @phase("inner")
    def fail() -> None:
        ticks.pass_by(5)
        raise StopIteration

    with PhaseClock().active() as clock:
        with pytest.raises(StopIteration):
            fail()
        ticks.pass_by(1)
    assert clock.seconds()["outer/inner"] == 5
    assert clock.seconds()["other"] == 1


def test_phase__without_a_clock_nothing_is_counted(ticks: Ticks) -> None:
    with PhaseClock().active() as clock:
        pass
    with phase("late"):
        ticks.pass_by(5)
    assert set(clock.seconds()) == {"other"}


def test_phase__of_the_innermost_clock_alone(ticks: Ticks) -> None:
    with PhaseClock().active() as outer:
        with PhaseClock().active() as inner, phase("work"):
            ticks.pass_by(3)
        with phase("more"):
            ticks.pass_by(4)
    assert inner.seconds()["work"] == 3
    assert "work" not in outer.seconds() and outer.seconds()["more"] == 4


def test_phase__costs_microseconds() -> None:
    with PhaseClock().active():
        start = time.process_time()
        for _ in range(1000):
            with phase("loader"):
                pass
    assert time.process_time() - start < 0.1


def test_recorded_phases__one_session_per_command(run: RunFolder, ticks: Ticks) -> None:
    for seconds in (2.0, 3.00049):
        with PhaseClock().active():
            with phase("imports"):
                ticks.pass_by(1)
            with recorded_phases(run), phase("mae"):
                ticks.pass_by(seconds)
    first, second = read_sessions(run)
    assert first.seconds == {"other": 0, "imports": 1, "mae": 2}
    assert second.seconds["mae"] == 3.0
    assert second.total == 4.0
    assert first.began[:2] == "20" and first.began[-5] in "+-"


def test_recorded_phases__of_a_run_that_fails(run: RunFolder, ticks: Ticks) -> None:
    @phase("mae")
    def train() -> None:
        ticks.pass_by(2)
        raise KeyboardInterrupt

    with PhaseClock().active(), pytest.raises(KeyboardInterrupt), recorded_phases(run):
        train()
    assert read_sessions(run)[0].seconds["mae"] == 2


def test_recorded_phases__a_full_disk_does_not_hide_the_error(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(timing, "write_whole", full)
    with PhaseClock().active(), pytest.raises(ValueError, match="first"), recorded_phases(run):
        raise ValueError("first")


def test_recorded_phases__a_damaged_record_is_replaced(run: RunFolder) -> None:
    run.timing.write_text("{", encoding="utf-8")
    with PhaseClock().active(), recorded_phases(run):
        pass
    assert len(read_sessions(run)) == 1


def test_recorded_phases__the_first_process_alone_writes(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with PhaseClock().active(), recorded_phases(run):
        pass
    assert not run.timing.exists()


def test_recorded_phases__without_a_clock_nothing_is_written(run: RunFolder) -> None:
    with recorded_phases(run):
        pass
    assert not run.timing.exists()


def test_clocked__a_new_clock_for_each_call(run: RunFolder, ticks: Ticks) -> None:
    @clocked()
    def train(seconds: float) -> None:
        with recorded_phases(run), phase("mae"):
            ticks.pass_by(seconds)

    train(1)
    train(2)
    assert [one.seconds["mae"] for one in read_sessions(run)] == [1, 2]


def test_read_sessions__says_why_there_is_none(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"has no timing\.json"):
        read_sessions(run)


@pytest.mark.parametrize("text", ["{", "[]", '{"sessions": [1]}', '{"sessions": [{"began": "x"}]}', "{}"])
def test_read_sessions__damaged(run: RunFolder, text: str) -> None:
    run.timing.write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"timing\.json is damaged"):
        read_sessions(run)


def test_session__total() -> None:
    assert Session(began="now", seconds={"a": 1.5, "b": 2.0}).total == 3.5
    assert json.dumps(Session(began="now", seconds={}).seconds) == "{}"
