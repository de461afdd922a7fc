"""Tables of `kelip ablate`: runs and costs, claims, verdicts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kelip_lightning.ablations.collect import StudyReport
from kelip_lightning.ablations.cost import (
    CpuTime,
    CpuTotal,
    Origin,
    cpu_times,
    due_runs,
    planned_core_hours,
    total_of,
)
from kelip_lightning.ablations.execution import write_array
from kelip_lightning.ablations.pool import find_folder, state_of
from kelip_lightning.ablations.report.claims import claim_sections
from kelip_lightning.ablations.report.tables import (
    ABSENT,
    QUICK,
    answers,
    metric_label,
    result_rows,
    summary,
    unit_after,
    written,
)
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.cli.tables import number_table, table_console
from kelip_lightning.planning.estimate import estimate
from kelip_lightning.planning.utilization import device_peak

GPU, UTILISATION = "a100", 0.4
"""For the GPU-hours of a dry run; `kelip plan` has options for others."""


def print_dry_run(study: Study, runs: Sequence[PlannedRun], jobs: int) -> None:
    """Print runs with their states, settings and cost of each variant, CPU time for `jobs`; write the Slurm array."""
    console = table_console()
    console.soft_wrap = True
    console.print(escape(study.config.question), style="bold")
    console.print(f"Base {study.base}; runs in {study.pool}; report in {study.folder}\n", highlight=False)
    for variant in dict.fromkeys(run.variant for run in runs):
        first = next(run for run in runs if run.variant == variant)
        mark = " (reference)" if variant == study.config.reference else ""
        console.print(f"[bold]{variant}[/bold]{mark}", highlight=False)
        for line in first.differences or ["as the base"]:
            console.print(f"  {escape(line)}", highlight=False)
    console.print()
    due = due_runs(study, runs)
    times = cpu_times(study, runs, lambda experiment: planned_core_hours(_peak_per_core(), UTILISATION)(experiment))
    console.print(_cost_table(study, runs, times))
    total = _gpu_hours_of(runs)
    if total:
        console.print(f"All: {total:,.0f} GPU-hours ({GPU} at {UTILISATION:.0%} utilisation, without evaluation)")
    if times:
        _print_cpu_total(console, times, total_of(times, due, jobs), jobs)
    if due:
        console.print(f"Slurm array of the {len(due)} runs that have not finished: {write_array(study, due)}")


def _print_cpu_total(console: Console, times: Mapping[str, CpuTime], total: CpuTotal, jobs: int) -> None:
    origins = {time.origin for time in times.values()}
    if total.num_runs:
        cores = f"{total.cores} core{'s' if total.cores > 1 else ''}"
        console.print(
            f"{total.num_runs} runs to train: {hours_written(total.hours)} CPU-hours, about "
            f"{hours_written(total.wall_hours)} hours on {cores} with --jobs {jobs}",
            highlight=False,
        )
    if Origin.measured in origins:
        console.print("from runs: mean time of the finished runs of the variant, start and evaluation included")
    if Origin.scaled in origins:
        console.print("from plan, scaled: training operations as in kelip plan, scaled by what the finished runs took")
    if Origin.planned in origins:
        console.print(
            f"from plan: training operations as in kelip plan, at {UTILISATION:.0%} of this machine's peak; "
            "start and evaluation are not included"
        )


@cache
def _peak_per_core() -> float:
    """Operations per second of this machine's float32 matrix products, over the threads that make them."""
    return device_peak(torch.device("cpu"), torch.float32) / torch.get_num_threads()


def hours_written(hours: float) -> str:
    """Hours with two significant digits below ten, and whole above."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def print_answer(study: Study, report: StudyReport, folder: Path) -> None:
    """The verdicts, and where the report stands."""
    console = Console(soft_wrap=True)
    if study.quick:
        console.print(f"[bold]{escape(QUICK)}[/bold]", highlight=False)
    found = answers(result_rows(report), study.scale.metrics)
    for sentence in summary(found, study.config.reference):
        console.print(escape(sentence), highlight=False)
    for answer in found:
        metric = answer.metric
        console.print(f"{metric_label(metric)}: higher than with {study.config.reference}?", style="bold")
        for row, word in answer.verdicts:
            ends = [written(name, row[name], metric) for name in ("difference", "difference_low", "difference_high")]
            interval = f" [{ends[1]}, {ends[2]}]" if row["difference_low"] is not None else ""
            mark = ", low power" if row["low_power"] else ""
            text = f"  {word}, {row['variant']}: {ends[0]}{interval}{unit_after(metric, difference=True)}{mark}"
            console.print(escape(text), highlight=False)
    for claim in claim_sections(report.claims, study.scale.claims):
        console.print(escape(f"Claim: {claim.text} {claim.about}"), style="bold", highlight=False)
        for word, sentence in claim.lines:
            console.print(escape(f"  {word}, {sentence}"), highlight=False)
    for note in report.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False)


def _cost_table(study: Study, runs: Sequence[PlannedRun], times: Mapping[str, CpuTime]) -> Table:
    """One row per variant; its seeds cost the same."""
    on_gpu = any(run.variant not in times for run in runs)
    hours = (*(["GPU-\nhours"] if on_gpu else []), *(["CPU-\nhours", "from"] if times else []))
    table = number_table(
        "Cost of one run of each variant", "", "variant", "runs", "steps", "crops", "image\ntokens", *hours
    )
    for variant in dict.fromkeys(run.variant for run in runs):
        mine = [run for run in runs if run.variant == variant]
        states = Counter(state_of(find_folder(study.pool, run)).value for run in mine)
        stages, gpu_hours, time = mine[0].plan.stages.values(), _gpu_hours_of(mine[:1]), times.get(variant)
        cells = [f"{gpu_hours:,.0f}" if gpu_hours else ABSENT] if on_gpu else []
        if times:
            cells += [hours_written(time.hours), time.origin.value] if time else [ABSENT, ABSENT]
        table.add_row(
            variant,
            "\n".join(f"{count} {state}" for state, count in states.items()),
            f"{sum(stage.max_steps for stage in stages):,}",
            written("images", sum(stage.images_forwarded for stage in stages)),
            written("tokens", sum(stage.tokens_forwarded for stage in stages)),
            *cells,
        )
    return table


def _gpu_hours_of(runs: Sequence[PlannedRun]) -> float:
    """GPU-hours of the runs with accelerator gpu; the seeds of a variant cost the same."""
    each: dict[str, float] = {}
    total = 0.0
    for run in runs:
        if contrastive_of(run.experiment).trainer.accelerator != "gpu":
            continue
        if run.variant not in each:
            stages = estimate(run.experiment, gpu=GPU, utilisation=UTILISATION).values()
            each[run.variant] = sum(stage.throughput.device_hours for stage in stages)
        total += each[run.variant]
    return total
