"""The report of how the cost of a step grows: time over counted operations of each case, as JSON and as a plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from kelip_lightning.benchmarks.ratios import Ratio, ratio_of
from kelip_lightning.benchmarks.step.growth import Case, GrowthRound
from kelip_lightning.benchmarks.step.setting import StepSetting, plain_values
from kelip_lightning.benchmarks.writing import write_benchmark
from kelip_lightning.drawing.charts import ChartRow


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSummary:
    """A case over all rounds; a sample is a pair, or an image of MAE pre-training."""

    name: str
    reference: str | None
    seconds: float
    """Per sample, median over the rounds."""
    flops: float
    """Counted operations per sample, mean over the rounds."""
    time_ratio: Ratio | None
    """Seconds per sample over the reference's; `None` without a reference."""
    counted_ratio: float | None
    """Operations per sample over the reference's."""
    time_over_counted: Ratio | None
    """The first ratio over the second: 1 if the time grows as the operations do."""
    within_tolerance: bool | None
    """Whether `time_over_counted` is 1 up to the case's tolerance; `None` without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthReport:
    """Everything that has been measured."""

    setting: StepSetting
    warmup: int
    steps: int
    cases: list[Case]
    rounds: list[GrowthRound]

    def summaries(self) -> list[CaseSummary]:
        """One per case, in order."""
        return [summarise(case, self.rounds) for case in self.cases]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "setting": plain_values(self.setting),
            "warmup": self.warmup,
            "steps": self.steps,
            "summary": [asdict(one) for one in self.summaries()],
            "rounds": [asdict(one) for one in self.rounds],
        }


def summarise(case: Case, rounds: Sequence[GrowthRound]) -> CaseSummary:
    """The ratios of a case with its reference in the same round."""
    seconds, flops = ([getattr(one, kind)[case.name] for one in rounds] for kind in ("seconds", "flops"))
    time_ratio = counted_ratio = time_over_counted = within = None
    if case.reference is not None:
        seconds_there, flops_there = (
            [getattr(one, kind)[case.reference] for one in rounds] for kind in ("seconds", "flops")
        )
        counted = [here / there for here, there in zip(flops, flops_there, strict=True)]
        expected = [there * ratio for there, ratio in zip(seconds_there, counted, strict=True)]
        time_ratio, counted_ratio = ratio_of(seconds, seconds_there), fmean(counted)
        time_over_counted = ratio_of(seconds, expected)
        if case.tolerance is not None:
            within = abs(time_over_counted.value - 1) <= case.tolerance
    return CaseSummary(
        name=case.name,
        reference=case.reference,
        seconds=median(seconds),
        flops=fmean(flops),
        time_ratio=time_ratio,
        counted_ratio=counted_ratio,
        time_over_counted=time_over_counted,
        within_tolerance=within,
    )


def write_growth_report(report: GrowthReport, folder: Path) -> list[Path]:
    """Write growth.json and growth.png; returns both."""
    title = f"Time over counted operations of our step: {report.setting.model.name}, {report.setting.precision}"
    return write_benchmark(folder, "growth", report.to_dict(), chart_rows(report.summaries()), title)


def chart_rows(summaries: Sequence[CaseSummary]) -> list[ChartRow]:
    """A row per case with a reference; the grey tick is time that grows as the operations do."""
    return [
        ChartRow(label=f"{one.name} / {one.reference}", value=ratio.value, low=ratio.low, high=ratio.high, chance=1.0)
        for one in summaries
        if (ratio := one.time_over_counted) is not None
    ]
