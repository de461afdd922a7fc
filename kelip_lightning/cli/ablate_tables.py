"""Tables of `kelip ablate`: runs and costs, verdicts, statistical power."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kelip_lightning.ablations.collect import StudyReport
from kelip_lightning.ablations.execution import write_array
from kelip_lightning.ablations.pool import RunState, find_folder, seconds_of, state_of
from kelip_lightning.ablations.report.tables import ABSENT, answers, result_rows, written
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.planning.estimate import estimate
from kelip_lightning.statistics.power import SimulatedStudy, simulate

GPU, UTILISATION = "a100", 0.4
"""For the GPU-hours of a dry run; `kelip plan` has options for others."""
POWER_EFFECTS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)
NUM_SIMULATED = 300


def print_dry_run(study: Study, runs: Sequence[PlannedRun]) -> None:
    """Print runs with their states, and settings and cost of each variant; write the Slurm array."""
    console = Console(soft_wrap=True)
    console.print(escape(study.config.question), style="bold")
    console.print(f"Base {study.base}; runs in {study.pool}; report in {study.folder}\n", highlight=False)
    for variant in dict.fromkeys(run.variant for run in runs):
        first = next(run for run in runs if run.variant == variant)
        mark = " (reference)" if variant == study.config.reference else ""
        console.print(f"[bold]{variant}[/bold]{mark}", highlight=False)
        for line in first.differences or ["as the base"]:
            console.print(f"  {escape(line)}", highlight=False)
    console.print()
    console.print(_cost_table(study, runs))
    total = _gpu_hours_of(runs)
    if total:
        console.print(f"All: {total:,.0f} GPU-hours ({GPU} at {UTILISATION:.0%} utilisation, without evaluation)")
    todo = [run for run in runs if state_of(find_folder(study.pool, run)) is not RunState.finished]
    if todo:
        console.print(f"Slurm array of the {len(todo)} runs that have not finished: {write_array(study, todo)}")


def print_answer(study: Study, report: StudyReport, folder: Path) -> None:
    """The verdicts, and where the report stands."""
    console = Console(soft_wrap=True)
    for label, passed in answers(result_rows(report), study.scale.metrics):
        console.print(escape(label), style="bold", highlight=False)
        for verdict, rows in passed:
            named = ", ".join(f"{row['variant']} ({written('difference', row['difference'])})" for row in rows)
            console.print(f"  {verdict}: {named}", highlight=False)
    for note in report.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False)


def print_power(num_variants: int, num_seeds: int) -> None:
    """Print how often a simulated study of this size finds a true difference."""
    table = Table(
        title=f"{NUM_SIMULATED} simulated studies: {num_variants} variants, {num_seeds} seeds, 1,000 items, 30 % hits",
        title_justify="left",
    )
    for name in ("true difference", "seed spread 0.5 points", "seed spread 2 points"):
        table.add_column(name, justify="right")
    for effect in POWER_EFFECTS:
        cells = []
        for spread in (0.005, 0.02):
            study = SimulatedStudy(
                num_variants=num_variants, num_seeds=num_seeds, seed_spread=spread, item_spread=0.05, effect=effect
            )
            rates = simulate(study, NUM_SIMULATED)
            cells.append(f"{100 * (rates.found if effect else rates.false_winner):.1f} %")
        name = f"{100 * effect:+g} points found" if effect else "0: false winner"
        table.add_row(name, *cells)
    Console().print(table)


def _cost_table(study: Study, runs: Sequence[PlannedRun]) -> Table:
    """One row per variant; its seeds cost the same."""
    table = Table(title="Cost of one run of each variant", title_justify="left")
    for name in ("variant", "seeds"):
        table.add_column(name)
    for name in ("steps", "crops", "image tokens", "GPU-hours", "seconds"):
        table.add_column(name, justify="right")
    for variant in dict.fromkeys(run.variant for run in runs):
        mine = [run for run in runs if run.variant == variant]
        folders = [find_folder(study.pool, run) for run in mine]
        states = Counter(state_of(folder).value for folder in folders)
        seconds = [taken for folder in folders if (taken := seconds_of(folder)) is not None]
        stages, hours = mine[0].plan.stages.values(), _gpu_hours_of(mine[:1])
        table.add_row(
            variant,
            ", ".join(f"{count} {state}" for state, count in states.items()),
            f"{sum(stage.max_steps for stage in stages):,}",
            written("images", sum(stage.images_forwarded for stage in stages)),
            written("tokens", sum(stage.tokens_forwarded for stage in stages)),
            f"{hours:,.0f}" if hours else ABSENT,
            written("seconds", sum(seconds) / len(seconds) if seconds else None),
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
