"""Metrics of groups of runs, and paired differences from the first group with intervals and verdicts.

The rule is that of studies (`statistics.significance`): a difference is better or worse if its p-value, corrected by
Dunnett's method for the groups that are compared with the first, is below 0.05. Runs are paired by seed, and by item
through the stored outcomes; items with the same correct answer are one group. A single pair of runs has an interval
over items alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kelip_lightning.comparison.conditions import Objection, objection_to, objections, same_items
from kelip_lightning.comparison.runs import ComparedRun, Groups
from kelip_lightning.comparison.settings import SettingDifference, differences_between, differences_within
from kelip_lightning.errors import RunFolderError
from kelip_lightning.evaluation.metric_names import is_rank, parse_metric, split_name
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.significance import (
    Estimate,
    SeedSpread,
    adjusted_p_values,
    estimate_over_items,
    paired_difference,
    pooled_spread,
    verdict,
)

_ROUNDING = 1e-4
"""Largest difference of a metric in report.json, computed in float32, from the mean of its items."""
ITEMS, ITEMS_AND_SEEDS = "items", "items and seeds"
Pairs = list[tuple[ComparedRun, ComparedRun]]
"""(Run of the group, run of the first group)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupValue:
    """A metric over the runs of a group."""

    mean: float
    deviation: float | None
    """Sample standard deviation (n - 1) over runs; `None` for one run."""
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """A group's metric minus the first group's, over pairs of runs."""

    mean: float
    deviation: float | None
    """Sample standard deviation over pairs; `None` for one pair."""
    num_pairs: int
    low: float | None
    """Lower end of the 95 % interval; `None`: the metric is no mean over items, or the items cannot be paired."""
    high: float | None
    covers: str | None
    """What the interval covers: `items and seeds`, or `items` for a single pair."""
    p_value: float | None
    adjusted_p_value: float | None
    """Dunnett-adjusted over the groups compared with the first."""
    verdict: str | None
    """`better`, `worse` or `inconclusive`; `None`: there is no interval, or an objection."""
    objection: str | None
    """Why there is no verdict although there are values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric over all groups."""

    metric: str
    chance: float | None
    num_items: int | None
    """`None` for metrics that are no mean over items."""
    groups: dict[str, GroupValue]
    differences: dict[str, GroupDifference]
    """Every group but the first, if it can be paired with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that `kelip compare` says."""

    runs: dict[str, list[str]]
    """Group -> its runs."""
    between: list[SettingDifference]
    within: dict[str, list[SettingDifference]]
    objections: list[Objection]
    notes: list[str]
    """What the intervals do not cover, and how runs were paired."""
    metrics: list[MetricComparison]


def compare_groups(groups: Groups) -> Comparison:
    """Compare every metric that all runs report, in the order of the first run's report.

    Args:
        groups: Name -> runs, at least one each; the first group is the reference.

    Raises:
        RunFolderError: The runs have no metric in common.
    """
    every = [run for runs in groups.values() for run in runs]
    shared = [key for key in every[0].metrics if all(key in run.metrics for run in every)]
    if not shared:
        raise RunFolderError("the runs have no metric in common; compare runs of the same evaluation sets")
    found, (reference, *others) = objections(groups), groups
    pairs = {name: pair_runs(groups[name], groups[reference]) for name in others}
    metrics = [_compare(key, groups, pairs, found) for key in shared]
    return Comparison(
        runs={name: [run.name for run in runs] for name, runs in groups.items()},
        between=differences_between(groups),
        within=differences_within(groups),
        objections=[*found, *_about_items(metrics, found)],
        notes=list(_notes(groups, pairs)),
        metrics=metrics,
    )


def _about_items(metrics: Sequence[MetricComparison], known: Sequence[Objection]) -> list[Objection]:
    """The objections to single metrics that are none of the known ones, each once for a set."""
    reasons = {one.reason for one in known}
    found = [
        Objection(reason=difference.objection, data_set=split_name(one.metric)[0])
        for one in metrics
        for difference in one.differences.values()
        if difference.objection is not None and difference.objection not in reasons
    ]
    return list(dict.fromkeys(found))


def pair_runs(runs: Sequence[ComparedRun], reference: Sequence[ComparedRun]) -> Pairs:
    """Runs with the same seed; groups without a common seed and of equal size are paired in the given order."""
    by_seed = {run.seed: run for run in reference}
    common = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if common or len(runs) != len(reference):
        return common
    return list(zip(runs, reference, strict=True))


def _compare(metric: str, groups: Groups, pairs: dict[str, Pairs], found: Sequence[Objection]) -> MetricComparison:
    values = {name: [float(run.metrics[metric]) for run in runs] for name, runs in groups.items()}
    every = [run for runs in groups.values() for run in runs]
    task, k = _task_of(metric)
    paired_by_item = task is not None and same_items(task, every)
    estimates: dict[str, Estimate] = {}
    if task is not None and paired_by_item:
        spread = _spread(task, k, pairs)
        estimates = {name: _estimate(task, k, one, spread) for name, one in pairs.items() if one}
    adjusted = dict(zip(estimates, adjusted_p_values(list(estimates.values())), strict=True))
    objection = objection_to(metric, found)
    if objection is None and task is not None and not paired_by_item:
        objection = Objection(reason="the runs have no stored items of this metric, so they cannot be paired by item")
    if task is not None and paired_by_item and (stale := _stale(metric, task, k, every)):
        estimates, objection = (
            {},
            Objection(reason=f"items.parquet of {stale} does not give the value of its report.json"),
        )
    return MetricComparison(
        metric=metric,
        chance=every[0].chance.get(metric),
        num_items=len(_items(every[0], task).texts) if task is not None and paired_by_item else None,
        groups={name: GroupValue(**_spread_of(column), num_runs=len(column)) for name, column in values.items()},
        differences={
            name: _difference(metric, one, estimates.get(name), adjusted.get(name), objection)
            for name, one in pairs.items()
            if one
        },
    )


def _difference(
    metric: str, pairs: Pairs, estimate: Estimate | None, adjusted: float | None, objection: Objection | None
) -> GroupDifference:
    values = _spread_of([float(run.metrics[metric]) - float(other.metrics[metric]) for run, other in pairs])
    has_interval = estimate is not None and estimate.low is not None
    return GroupDifference(
        **values,
        num_pairs=len(pairs),
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        covers=(ITEMS if len(pairs) == 1 else ITEMS_AND_SEEDS) if has_interval else None,
        p_value=estimate.p_value if estimate else None,
        adjusted_p_value=adjusted,
        verdict=verdict(estimate, adjusted).value if estimate and has_interval and objection is None else None,
        objection=objection.reason if objection else None,
    )


def _stale(metric: str, task: str, k: int | None, runs: Sequence[ComparedRun]) -> str | None:
    """The first run whose stored items are those of another evaluation than its report."""
    return next((run.name for run in runs if abs(_hits(run, task, k).mean() - run.metrics[metric]) > _ROUNDING), None)


def _task_of(metric: str) -> tuple[str | None, int | None]:
    """The task whose outcomes the metric is the mean of, and its K; `None`: it is no mean over items."""
    if is_rank(metric):
        return None, None
    try:
        return parse_metric(metric)
    except ValueError:
        return None, None


def _items(run: ComparedRun, task: str) -> StoredItems:
    assert run.items is not None
    return run.items[task]


def _hits(run: ComparedRun, task: str, k: int | None) -> NDArray[np.float64]:
    """(N,): ranks as hits (rank below K), other outcomes unchanged."""
    outcomes = _items(run, task).outcomes
    return (outcomes if k is None else outcomes < k).astype(np.float64)


def _estimate(task: str, k: int | None, pairs: Pairs, spread: SeedSpread | None) -> Estimate:
    own, other = (np.stack([_hits(pair[side], task, k) for pair in pairs]) for side in (0, 1))
    groups = _items(pairs[0][0], task).groups
    if len(pairs) == 1:
        return estimate_over_items(own - other, groups)
    return paired_difference(own, other, groups, spread)


def _spread(task: str, k: int | None, pairs: dict[str, Pairs]) -> SeedSpread | None:
    """Pooled over all groups, if each is paired with the same runs of the first; else each has its own."""
    references = [[other.name for _, other in one] for one in pairs.values()]
    if not references or any(one != references[0] for one in references):
        return None
    rows = [[other for _, other in next(iter(pairs.values()))], *([run for run, _ in one] for one in pairs.values())]
    return pooled_spread(np.array([[float(_hits(run, task, k).mean()) for run in row] for row in rows]))


def _spread_of(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else None}


def _notes(groups: Groups, pairs: dict[str, Pairs]) -> list[str]:
    reference, notes = next(iter(groups)), []
    for name, one in pairs.items():
        if not one:
            notes.append(
                f"{name} and {reference} have no seed in common and different numbers of runs, so they are not paired; "
                "train both with the same seeds"
            )
            continue
        if any(run.seed != other.seed for run, other in one):
            notes.append(f"{name} and {reference} have different seeds: their runs are paired in the given order")
        elif len(one) < max(len(groups[name]), len(groups[reference])):
            seeds = ", ".join(str(run.seed) for run, _ in one)
            notes.append(f"the difference of {name} is over the seeds that both groups have: {seeds}")
        if len(one) == 1:
            notes.append(
                f"{name} and {reference} are compared through one run each: the interval and the verdict are about "
                "these two models on other items of the same kind; they do not cover the seed, and a second run of the "
                "same settings may differ by more"
            )
    return notes
