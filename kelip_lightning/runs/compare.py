"""Compares metrics of finished runs: means and standard deviations over seeds, paired differences."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean and standard deviation (n - 1) of n runs; the deviation is `None` for one run."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric over groups of runs."""

    key: str
    chance: float | None
    groups: dict[str, Spread]
    difference: Spread | None
    """Second group minus first, run by run in the given order; `None` unless there are two groups of equal size."""


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    return Spread(mean=mean(values), deviation=stdev(values) if len(values) > 1 else None, count=len(values))


def compare_runs(groups: Mapping[str, Sequence[Path]]) -> list[Comparison]:
    """Every metric that all runs report, in the order of the first run's report.

    Args:
        groups: Name -> run folders; runs at the same index in two groups are a pair (same seed).

    Raises:
        RunFolderError: A run has no report, or the runs have no metric in common.
    """
    reports = {name: [read_report(path) for path in paths] for name, paths in groups.items()}
    every = [report for members in reports.values() for report in members]
    shared = [key for key in every[0]["metrics"] if all(key in report["metrics"] for report in every)]
    if not shared:
        raise RunFolderError("the runs have no metric in common; compare runs of the same evaluation sets")
    return [_compare(key, reports, every[0]["chance"].get(key)) for key in shared]


def _compare(key: str, reports: Mapping[str, Sequence[Mapping[str, Any]]], chance: float | None) -> Comparison:
    values = {name: [float(report["metrics"][key]) for report in members] for name, members in reports.items()}
    columns = list(values.values())
    paired = len(columns) == 2 and len(columns[0]) == len(columns[1])
    return Comparison(
        key=key,
        chance=chance,
        groups={name: spread_of(column) for name, column in values.items()},
        difference=spread_of([b - a for a, b in zip(*columns, strict=True)]) if paired else None,
    )


def read_report(path: Path) -> dict[str, Any]:
    """The final report of a run.

    Raises:
        RunFolderError: The run has none, because it is unfinished or no run.
    """
    report = RunFolder(path).report
    if not report.is_file():
        raise RunFolderError(f"{path} has no report.json: give the folder of a finished run")
    loaded: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return loaded
