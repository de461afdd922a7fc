"""The report of a step benchmark: rates, ratios, the share of the ceiling, as JSON and as a plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from kelip_lightning.benchmarks.ratios import Ratio, ratio_of
from kelip_lightning.benchmarks.step.agreement import TOLERANCE, Agreement
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.ceiling import product_shapes
from kelip_lightning.benchmarks.step.peers import OURS
from kelip_lightning.benchmarks.step.rounds import Round, RoundPlan, pairs_per_second
from kelip_lightning.benchmarks.step.setting import plain_values
from kelip_lightning.benchmarks.writing import write_benchmark
from kelip_lightning.drawing.charts import ChartRow

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Of caption lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestantSummary:
    """A contestant over all rounds."""

    name: str
    pairs_per_second: float
    """Median over the rounds."""
    ours_over_it: Ratio | None
    """Our pairs per second over its; `None` for ourselves."""
    ours_over_it_by_processor: Ratio | None
    """Its processor seconds over ours, which other processes of the machine hardly change; `None` on a GPU too."""
    peak_mebibytes: float | None
    """Median over the rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Everything that a step benchmark has found."""

    plan: RoundPlan
    captions: list[CaptionLengths]
    """All distributions, the plan's among them."""
    agreements: list[Agreement]
    rounds: list[Round]
    notes: list[str]
    """Sentences about what is left out."""

    @property
    def agrees(self) -> bool:
        """Whether every contestant takes the same step as ours."""
        return all(one.holds for one in self.agreements)

    def summaries(self) -> list[ContestantSummary]:
        """One per contestant, ourselves first."""
        rates = {name: self._rates(name) for name in self.plan.contestants}
        processor = {name: self._processor_seconds(name) for name in self.plan.contestants}
        on_cpu = self.plan.setting.device == "cpu"
        return [
            ContestantSummary(
                name=name,
                pairs_per_second=median(rates[name]),
                ours_over_it=None if name == OURS else ratio_of(rates[OURS], rates[name]),
                ours_over_it_by_processor=(
                    ratio_of(processor[name], processor[OURS]) if on_cpu and name != OURS else None
                ),
                peak_mebibytes=_median([one.contestants[name].peak_mebibytes for one in self.rounds]),
            )
            for name in self.plan.contestants
        ]

    def flops_per_second(self) -> float:
        """Of our steps, median over the rounds."""
        return median(self._flops_per_second(one) for one in self.rounds)

    def ceiling(self) -> float:
        """Operations per second of the fastest product, median over the rounds."""
        return median(one.ceiling for one in self.rounds)

    def share_of_ceiling(self) -> float:
        """Our operations per second over the ceiling of the same round, median over the rounds."""
        return median(self._flops_per_second(one) / one.ceiling for one in self.rounds)

    def _rates(self, name: str) -> list[float]:
        return [pairs_per_second(self.plan, one, name) for one in self.rounds]

    def _processor_seconds(self, name: str) -> list[float]:
        return [one.contestants[name].times.processor_seconds for one in self.rounds]

    def _flops_per_second(self, done: Round) -> float:
        return done.flops * self.plan.steps / done.contestants[OURS].times.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "setting": plain_values(self.plan.setting),
            "warmup": self.plan.warmup,
            "steps": self.plan.steps,
            "notes": self.notes,
            "captions": [_captions(one) for one in self.captions],
            "agreement": {
                "tolerance": TOLERANCE,
                "holds": self.agrees,
                "peers": [asdict(one) | {"loss_error": one.loss_error, "holds": one.holds} for one in self.agreements],
            },
            "ceiling": {
                "products_mkn": product_shapes(self.plan.setting),
                "flops_per_second": self.ceiling(),
                "our_flops_per_second": self.flops_per_second(),
                "our_share": self.share_of_ceiling(),
            },
            "summary": [asdict(one) for one in self.summaries()],
            "rounds": [asdict(one) for one in self.rounds],
        }


def write_report(report: StepReport, folder: Path) -> list[Path]:
    """Write step.json and step.png; returns both."""
    setting = report.plan.setting
    title = f"Pairs per second, ours over each: {setting.model.name}, batch {setting.batch}, {setting.precision}"
    return write_benchmark(folder, "step", report.to_dict(), chart_rows(report.summaries()), title)


def chart_rows(summaries: Sequence[ContestantSummary]) -> list[ChartRow]:
    """A row per peer; the grey tick is equal speed."""
    return [
        ChartRow(label=one.name, value=ratio.value, low=ratio.low, high=ratio.high, chance=1.0)
        for one in summaries
        if (ratio := one.ours_over_it) is not None
    ]


def _captions(lengths: CaptionLengths) -> dict[str, Any]:
    quantiles = {f"{level:g}": lengths.quantile(level) for level in QUANTILES}
    return {"name": lengths.name, "description": lengths.description, "mean": lengths.mean, "quantiles": quantiles}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
