"""Whether a difference between groups may be called one: same data, same length, same evaluation, seeds alone within.

Length is the number of samples of a stage, steps x global batch size. A stage that only some runs have (MAE
pre-training on and off) is a setting and no other length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_modules.config_roles import Role
from data_modules.sources.fingerprint import all_source_changes, file_changes
from kelip_lightning.comparison.runs import ComparedRun, Groups
from kelip_lightning.comparison.settings import differences_within, is_seed
from kelip_lightning.config.fingerprint import identity_of
from kelip_lightning.evaluation.metric_names import split_name

KINDS = ("retrieval", "captions", "classification", "choices")
_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Why a difference is not called better or worse."""

    reason: str
    """One sentence."""
    data_set: str | None = None
    """The evaluation set whose metrics it concerns; `None`: all metrics."""


def objections(groups: Groups) -> list[Objection]:
    """All reasons, one of each kind for a group; empty: every metric may be judged."""
    reference, (first, *_) = next(iter(groups.items()))
    found = [Objection(reason=one) for one in _within(groups)]
    for name, runs in groups.items():
        for check in (_items, _data, _length, _evaluation):
            by_set: dict[str | None, list[str]] = {}
            for run in runs:
                about = f"{run.name} ({name})", f"{first.name} ({reference})"
                for one in check(run, first, about):
                    by_set.setdefault(one.data_set, []).append(one.reason)
            for data_set, reasons in by_set.items():
                more = f", and {len(reasons) - 1} more of {name} likewise" if len(reasons) > 1 else ""
                found.append(Objection(reason=f"{reasons[0]}{more}", data_set=data_set))
    return found


def objection_to(metric: str, found: Sequence[Objection]) -> Objection | None:
    """The first reason that concerns a metric."""
    data_set = split_name(metric)[0] if metric.count("/") == 2 else None
    return next((one for one in found if one.data_set in (None, data_set)), None)


def same_items(metric_task: str, runs: Sequence[ComparedRun]) -> bool:
    """Whether all runs have the outcomes of a task, of the same items in the same order."""
    stored = [run.items.get(metric_task) if run.items is not None else None for run in runs]
    first = stored[0]
    return first is not None and all(
        one is not None and one.texts == first.texts and np.array_equal(one.groups, first.groups) for one in stored
    )


def _within(groups: Groups) -> Iterator[str]:
    for name, differences in differences_within(groups).items():
        other = [one.key for one in differences if one.role is Role.identity and not is_seed(one.key)]
        if other:
            yield (
                f"the runs of {name} differ in more than the seed ({_listed(other)}), so their spread is not that of "
                "seeds; put runs with other settings into a group of their own"
            )
        seeds = [run.seed for run in groups[name]]
        if len(set(seeds)) < len(seeds):
            yield f"{name} has two runs with the same seed, which are one run; train them with different seeds"


def _items(run: ComparedRun, _: ComparedRun, about: tuple[str, str]) -> Iterator[Objection]:
    if run.items is None:
        yield Objection(reason=f"{about[0]} has no items.parquet, so it cannot be paired by item")


def _data(run: ComparedRun, first: ComparedRun, about: tuple[str, str]) -> Iterator[Objection]:
    if run.data is None:
        yield Objection(reason=f"{about[0]} has no data.json, so what data it was trained on is unknown")
    if run.data is None or first.data is None:
        return
    changes = []
    for stage in (one for one in first.stages if one in run.stages):
        before, after = first.data.sources.get(stage, {}), run.data.sources.get(stage, {})
        changes += [f"{stage}: {change}" for change in all_source_changes(before, after)]
    if first.data.templates != run.data.templates:
        changes.append("the caption templates are others")
    if changes:
        reason = f"{about[0]} was trained on other data than {about[1]} ({_listed(changes, '; ')})"
        yield Objection(reason=reason)


def _length(run: ComparedRun, first: ComparedRun, about: tuple[str, str]) -> Iterator[Objection]:
    for stage in (one for one in first.stages if one in run.stages):
        if run.samples_of(stage) != first.samples_of(stage):
            yield Objection(
                reason=f"{stage} of {about[0]} was trained on {run.samples_of(stage):,} samples "
                f"({run.stages[stage].schedule.max_steps:,} steps) and of {about[1]} on {first.samples_of(stage):,} "
                f"({first.stages[stage].schedule.max_steps:,} steps)"
            )


def _evaluation(run: ComparedRun, first: ComparedRun, about: tuple[str, str]) -> Iterator[Objection]:
    """Sets that differ in settings, files or items; sets that only one run has are not compared at all."""
    for kind in KINDS:
        mine, theirs = (getattr(one.contrastive.evaluation, kind) for one in (run, first))
        for name in (one for one in theirs if one in mine):
            key, what = f"{kind}.{name}", []
            if identity_of(mine[name]) != identity_of(theirs[name]):
                what.append("its settings differ")
            if run.data is not None and first.data is not None:
                files = first.data.evaluation.get(key, ()), run.data.evaluation.get(key, ())
                what += file_changes(*files)
            if run.items is not None and first.items is not None and not what:
                tasks = [one for one in first.items if split_name(one)[0] == name]
                if not all(same_items(one, [first, run]) for one in tasks):
                    what.append("the stored items differ")
            if what:
                reason = f"{about[0]} was evaluated on another set {key} than {about[1]} ({_listed(what)})"
                yield Objection(reason=reason, data_set=name)


def _listed(parts: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(parts) - _MOST_SHOWN} more" if len(parts) > _MOST_SHOWN else ""
    return separator.join(parts[:_MOST_SHOWN]) + more
