"""CPU time of a study's runs before they start: measured on its finished runs, else estimated.

CPU time is core-hours: wall-clock hours x cores of the run's share. A variant without a finished run is estimated from
its operations, as `kelip plan` counts them; if other variants have finished runs, the estimate is scaled by what those
took over their estimates, so that start, data and evaluation count too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from kelip_lightning.ablations.pool import RunState, core_hours_of, find_folder, state_of
from kelip_lightning.ablations.study import PlannedRun, Study, Trained, contrastive_of
from kelip_lightning.distributed.cores import usable_cores
from kelip_lightning.planning.flops import training_operations
from kelip_lightning.planning.stage_plan import stages_of


class Origin(Enum):
    """Where a CPU time comes from."""

    measured = "runs"
    """The mean of the variant's finished runs."""
    scaled = "plan, scaled"
    planned = "plan"
    """Operations over the peak of this machine's cores, at the assumed utilisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """Of one run of a variant."""

    hours: float
    """Core-hours."""
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTotal:
    """Of all runs that have not finished."""

    num_runs: int
    hours: float
    """Core-hours."""
    wall_hours: float
    """Wall-clock hours on this machine's cores, `jobs` runs at a time."""
    cores: int
    """Cores that are busy."""


def cpu_times(study: Study, runs: Sequence[PlannedRun], planned: Callable[[Trained], float]) -> dict[str, CpuTime]:
    """Variant -> CPU time of one of its runs; variants that train on another accelerator are left out.

    Args:
        study: Of the runs.
        runs: The chosen ones.
        planned: Core-hours of an experiment by its operations, as `planned_core_hours`.
    """
    by_variant: dict[str, list[PlannedRun]] = {}
    for run in runs:
        if trains_on_cpu(run):
            by_variant.setdefault(run.variant, []).append(run)
    measured = {name: _measured(study, mine) for name, mine in by_variant.items()}
    known = {name: hours for name, hours in measured.items() if hours is not None}
    if len(known) == len(by_variant):
        return {name: CpuTime(hours=hours, origin=Origin.measured) for name, hours in known.items()}
    estimates = {name: planned(mine[0].experiment) for name, mine in by_variant.items()}
    factor = sum(known.values()) / sum(estimates[name] for name in known) if known else 1.0
    other = Origin.scaled if known else Origin.planned
    return {
        name: CpuTime(hours=known[name], origin=Origin.measured)
        if name in known
        else CpuTime(hours=factor * estimate, origin=other)
        for name, estimate in estimates.items()
    }


def total_of(times: Mapping[str, CpuTime], due: Sequence[PlannedRun], jobs: int) -> CpuTotal:
    """CPU time of the runs that are still to be trained, of variants with a known time.

    `jobs` runs at a time share the cores evenly; fewer runs than that leave cores idle.
    """
    mine = [run for run in due if run.variant in times]
    hours = sum(times[run.variant].hours for run in mine)
    cores = usable_cores()
    share = max(1, cores // jobs)
    busy = max(1, min(cores, share * min(jobs, len(mine))))
    return CpuTotal(num_runs=len(mine), hours=hours, wall_hours=hours / busy, cores=busy)


def planned_core_hours(peak_per_core: float, utilisation: float) -> Callable[[Trained], float]:
    """Core-hours of an experiment's training steps: operations over peak x utilisation, without start and evaluation.

    Args:
        peak_per_core: Operations per second of one core's matrix products.
        utilisation: Share of the peak that training reaches, in (0, 1].
    """

    def hours(experiment: Trained) -> float:
        operations = sum(map(training_operations, stages_of(experiment).values()))
        return operations / (peak_per_core * utilisation) / 3600

    return hours


def trains_on_cpu(run: PlannedRun) -> bool:
    """Whether a run would train on this machine's CPU."""
    accelerator = contrastive_of(run.experiment).trainer.accelerator
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def due_runs(study: Study, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that have not finished."""
    return [run for run in runs if state_of(find_folder(study.pool, run)) is not RunState.finished]


def _measured(study: Study, runs: Sequence[PlannedRun]) -> float | None:
    """Mean core-hours of the finished runs of a variant; `None`: there is none with a record."""
    folders = [find_folder(study.pool, run) for run in runs]
    finished = [folder for folder in folders if state_of(folder) is RunState.finished]
    found = [hours for folder in finished if (hours := core_hours_of(folder)) is not None]
    return sum(found) / len(found) if found else None
