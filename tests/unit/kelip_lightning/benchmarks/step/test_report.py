"""The numbers of the report, from made-up rounds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kelip_lightning.benchmarks.step.agreement import Agreement
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.clock import StepTimes
from kelip_lightning.benchmarks.step.report import StepReport, chart_rows, write_report
from kelip_lightning.benchmarks.step.rounds import Measured, Round, RoundPlan
from kelip_lightning.benchmarks.step.setting import StepSetting

OURS, THEIRS = [1.0, 2.0, 1.6], [2.0, 3.0, 4.0]
"""Seconds of the timed steps of three rounds."""


def _measured(seconds: float, peak: float | None) -> Measured:
    times = StepTimes(seconds=seconds, processor_seconds=seconds**2, seconds_per_step=[seconds], last_loss=1.0)
    return Measured(times=times, peak_mebibytes=peak)


@pytest.fixture
def report(tiny_setting: Callable[..., StepSetting], lengths: CaptionLengths) -> StepReport:
    """Batch 4, five timed steps of 10 operations, ceilings 100, 200 and 50."""
    rounds = [
        Round(
            number=number,
            order=["ours", "plain"],
            product_rates={"square": ceiling, "image qkv": ceiling / 2},
            flops=10.0,
            caption_tokens=7.0,
            longest_tokens=9.0,
            contestants={"ours": _measured(OURS[number], 30.0 - number), "plain": _measured(THEIRS[number], None)},
        )
        for number, ceiling in enumerate((100.0, 200.0, 50.0))
    ]
    agreement = Agreement(
        peer="plain", pairs=4, our_loss=2.0, peer_loss=2.0, gradient_error=1e-6, worst_parameter="visual.proj"
    )
    plan = RoundPlan(setting=tiny_setting(), lengths=lengths, contestants=["ours", "plain"], warmup=1, steps=5)
    return StepReport(plan=plan, captions=[lengths], agreements=[agreement], rounds=rounds, notes=["a note"])


def test_summaries__medians_and_ratios_by_round(report: StepReport) -> None:
    ours, plain = report.summaries()
    assert (ours.name, plain.name) == ("ours", "plain")
    assert ours.pairs_per_second == np.median([20 / seconds for seconds in OURS])
    assert plain.pairs_per_second == np.median([20 / seconds for seconds in THEIRS])
    assert ours.ours_over_it is None and plain.ours_over_it is not None
    assert plain.ours_over_it.value == pytest.approx(np.exp(np.log(np.divide(THEIRS, OURS)).mean()))
    assert ours.ours_over_it_by_processor is None and plain.ours_over_it_by_processor is not None
    assert plain.ours_over_it_by_processor.value == pytest.approx(plain.ours_over_it.value**2)
    assert (ours.peak_mebibytes, plain.peak_mebibytes) == (29.0, None)


def test_summaries__no_processor_time_on_a_gpu(report: StepReport) -> None:
    report.plan.setting.device = "cuda"
    assert [one.ours_over_it_by_processor for one in report.summaries()] == [None, None]


def test_share_of_ceiling__is_of_the_same_round(report: StepReport) -> None:
    rates = [10 * 5 / seconds for seconds in OURS]
    assert report.share_of_ceiling() == np.median([rates[0] / 100, rates[1] / 200, rates[2] / 50])
    assert (report.flops_per_second(), report.ceiling()) == (np.median(rates), 100)


def test_write_report__json_and_plot(report: StepReport, tmp_path: Path) -> None:
    files = write_report(report, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["step.json", "step.png"]
    written = json.loads(files[0].read_text(encoding="utf-8"))
    assert written["setting"]["model"] == "tiny" and written["setting"]["captions"] == "cc3m_like"
    assert written["agreement"]["holds"] is True
    assert written["agreement"]["peers"][0]["loss_error"] == 0
    assert [one["contestants"]["ours"]["times"]["seconds"] for one in written["rounds"]] == OURS
    assert written["captions"][0]["quantiles"]["0.5"] == 4
    assert {"git", "packages", "cpu", "platform"} <= written["environment"].keys()
    assert written["ceiling"]["our_share"] == report.share_of_ceiling()
    assert np.asarray(Image.open(files[1])).std() > 0


def test_chart_rows__one_per_peer_with_equal_speed_marked(report: StepReport) -> None:
    (row,) = chart_rows(report.summaries())
    assert (row.label, row.chance) == ("plain", 1.0)
    assert row.low is not None and row.low < row.value
