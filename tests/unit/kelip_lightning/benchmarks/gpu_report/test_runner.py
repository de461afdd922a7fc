"""The runner with stub parts: every way to end, resumption, time limits."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from kelip_lightning.benchmarks.gpu_report.report import write_report
from kelip_lightning.benchmarks.gpu_report.runner import Outcome, Part, ReportPlan, Status, read_outcome, run_parts

MACHINE = {"device": "a GPU", "torch": "2"}


def _part(function: str, seconds: float = 120.0) -> Part:
    return Part(name=function, about=f"a part that {function}", seconds=seconds, work=f"stub_parts:{function}")


@pytest.fixture(autouse=True)
def _stubs_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def plan(tmp_path: Path) -> ReportPlan:
    return ReportPlan(folder=tmp_path / "report", smoke=True, machine=MACHINE)


def _ended(plan: ReportPlan, *parts: Part) -> tuple[list[Outcome], list[str]]:
    lines: list[str] = []
    return list(run_parts(parts, plan, lines.append)), lines


def test_run_parts__one_that_fails_does_not_hide_the_others(plan: ReportPlan) -> None:
    names = ("raises", "dies", "exceeds_a_bound", "skips", "ends_well")
    outcomes, lines = _ended(plan, *map(_part, names))
    statuses = {one.part: one.status.name for one in outcomes}
    assert statuses == dict(zip(names, ("failed", "failed", "failed", "skipped", "ok"), strict=True))
    reasons = {one.part: one.reasons for one in outcomes}
    assert reasons["raises"] == ["ValueError: the first line"]
    assert reasons["dies"] == ["its process was ended by SIGABRT, see log.txt"]
    assert reasons["exceeds_a_bound"] == ["the error is too large"]
    assert reasons["skips"] == ["a package is not installed; install it"]
    assert outcomes[0].figures == {"before": 1}
    assert outcomes[-1].figures == {"device": "cpu", "limit": 120.0, "rate": 1235.0}
    assert "the second" in (plan.folder / "raises" / "log.txt").read_text(encoding="utf-8")
    assert lines[-1].startswith("ends_well (5 of 5): ok after ")

    files = write_report([*map(_part, names), _part("hangs")], {one.part: one for one in outcomes}, plan)
    assert [one.name for one in files] == ["report.json", "report.md"]
    written = json.loads(files[0].read_text(encoding="utf-8"))
    assert [one["status"] for one in written["parts"]] == [*statuses.values(), "not run"]
    table = files[1].read_text(encoding="utf-8")
    assert "1 ok, 3 failed, 1 skipped, 1 not run" in table
    (row,) = (line for line in table.splitlines() if line.startswith("| ends_well |"))
    assert "device cpu; limit 120; rate 1,235" in row
    assert f"`kelip benchmark gpu --parts ends_well --again --output {plan.folder} --smoke`" in row


def test_run_parts__only_what_has_ended_well_is_not_repeated(plan: ReportPlan) -> None:
    part, count = _part("ends_well"), plan.folder / "runs.txt"
    (first,), _ = _ended(plan, part)
    (again,), lines = _ended(plan, part)
    assert (again, count.read_text()) == (first, "x")
    assert lines[0].startswith("ends_well (1 of 1): done before")
    _ended(dataclasses.replace(plan, again=True), part)
    assert count.read_text() == "xx"
    elsewhere = dataclasses.replace(plan, machine={"device": "another GPU", "torch": "2"})
    assert read_outcome(elsewhere, part) is None
    _ended(elsewhere, part)
    assert count.read_text() == "xxx"
    _ended(dataclasses.replace(elsewhere, smoke=False), part)
    assert count.read_text() == "xxxx"
    (failed,), _ = _ended(plan, _part("raises"))
    (repeated,), lines = _ended(plan, _part("raises"))
    assert failed.status is repeated.status is Status.failed
    assert not any("done before" in line for line in lines)


def test_run_parts__an_outcome_of_earlier_code_is_named(plan: ReportPlan) -> None:
    _ended(plan, _part("ends_well"))
    file = plan.folder / "ends_well" / "outcome.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"code": "0123456789ab"}), encoding="utf-8")
    _, lines = _ended(plan, _part("ends_well"))
    assert "by earlier code (0123456789ab)" in lines[0]


def test_run_parts__a_damaged_outcome_is_none(plan: ReportPlan) -> None:
    _ended(plan, _part("skips"))
    (plan.folder / "skips" / "outcome.json").write_text('{"status": "o', encoding="utf-8")
    assert read_outcome(plan, _part("skips")) is None


def test_run_parts__a_part_that_hangs_is_ended_with_what_it_has_started(plan: ReportPlan) -> None:
    # Longer than Python needs to begin.
    limited = dataclasses.replace(plan, time_factor=2.0)
    (outcome,), _ = _ended(limited, _part("hangs", seconds=15.0))
    assert outcome.status is Status.failed
    assert outcome.reasons == ["ended at its limit of 30 s; --time-factor raises it"]
    assert 30 <= outcome.seconds < 60
    deadline = time.monotonic() + 10
    while _runs(int(outcome.figures["child"])) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(int(outcome.figures["child"]))


def _runs(process: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
