"""Ratios of time and of counted operations, from made-up rounds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kelip_lightning.benchmarks.step.growth import Case, GrowthRound
from kelip_lightning.benchmarks.step.growth_report import GrowthReport, chart_rows, summarise, write_growth_report
from kelip_lightning.benchmarks.step.setting import StepSetting

REFERENCE_SECONDS, SECONDS = [1.0, 2.0, 1.5], [2.2, 3.8, 3.0]
REFERENCE_FLOPS, FLOPS = [10.0, 12.0, 11.0], [20.0, 22.0, 24.0]


@pytest.fixture
def report(tiny_setting: Callable[..., StepSetting]) -> GrowthReport:
    setting = tiny_setting()
    cases = [
        Case(name="one", reference=None, setting=setting),
        Case(name="two", reference="one", setting=setting, tolerance=0.15),
    ]
    rounds = [
        GrowthRound(
            number=number,
            order=["one", "two"],
            seconds={"one": REFERENCE_SECONDS[number], "two": SECONDS[number]},
            flops={"one": REFERENCE_FLOPS[number], "two": FLOPS[number]},
        )
        for number in range(3)
    ]
    return GrowthReport(setting=setting, warmup=1, steps=2, cases=cases, rounds=rounds)


def test_summarise__ratios_of_the_same_round(report: GrowthReport) -> None:
    one, two = report.summaries()
    assert (one.seconds, one.flops, one.time_ratio, one.within_tolerance) == (1.5, 11.0, None, None)
    times, counts = np.divide(SECONDS, REFERENCE_SECONDS), np.divide(FLOPS, REFERENCE_FLOPS)
    assert two.time_ratio is not None and two.time_over_counted is not None
    assert two.time_ratio.value == pytest.approx(np.exp(np.log(times).mean()))
    assert two.counted_ratio == pytest.approx(counts.mean())
    assert two.time_over_counted.value == pytest.approx(np.exp(np.log(times / counts).mean()))
    assert two.within_tolerance is True


@pytest.mark.parametrize(("factor", "within"), [(1.0, True), (1.2, False), (0.7, False)])
def test_summarise__tolerance_is_of_the_ratio_of_ratios(report: GrowthReport, factor: float, within: bool) -> None:
    rounds = [
        GrowthRound(number=number, order=[], seconds={"one": 1.0, "two": 2 * factor}, flops={"one": 1.0, "two": 2.0})
        for number in range(2)
    ]
    assert summarise(report.cases[1], rounds).within_tolerance is within


def test_write_growth_report__json_and_plot(report: GrowthReport, tmp_path: Path) -> None:
    files = write_growth_report(report, tmp_path)
    written = json.loads(files[0].read_text(encoding="utf-8"))
    assert [one["seconds"]["two"] for one in written["rounds"]] == SECONDS
    assert written["summary"][1]["within_tolerance"] is True
    assert written["setting"]["model"] == "tiny"
    assert files[1].name == "growth.png" and files[1].stat().st_size > 1000


def test_chart_rows__cases_with_a_reference_alone(report: GrowthReport) -> None:
    (row,) = chart_rows(report.summaries())
    assert (row.label, row.chance) == ("two / one", 1.0)
