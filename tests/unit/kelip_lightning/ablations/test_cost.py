"""CPU time of a study's runs: measured, scaled or planned; hours for a number of jobs."""

import json
from collections.abc import Callable

import pytest

from kelip_lightning.ablations import cost
from kelip_lightning.ablations.cost import CpuTime, Origin, cpu_times, due_runs, planned_core_hours, total_of
from kelip_lightning.ablations.pool import COST, find_folder
from kelip_lightning.ablations.study import PlannedRun, Study, Trained, contrastive_of
from kelip_lightning.cli.ablate_tables import print_dry_run
from kelip_lightning.planning.flops import count_flops
from kelip_lightning.planning.stage_plan import stages_of


def _planned(experiment: Trained) -> float:
    return contrastive_of(experiment).schedule.max_steps / 800.0  # plain and warm 1, longer 2


def _set_hours(study: Study, run: PlannedRun, hours: float) -> None:
    text = json.dumps({"seconds": 1.0, "core_seconds": 3600 * hours})
    (find_folder(study.pool, run).path / COST).write_text(text, encoding="utf-8")


def test_cpu_times__without_runs_they_are_planned(study: Study) -> None:
    times = cpu_times(study, study.runs, _planned)
    assert times == {
        name: CpuTime(hours=hours, origin=Origin.planned)
        for name, hours in {"plain": 1.0, "longer": 2.0, "warm": 1.0}.items()
    }


def test_cpu_times__are_the_mean_of_the_finished_runs_and_scale_the_others(
    study: Study, finish: Callable[..., None]
) -> None:
    for run, hours in zip([one for one in study.runs if one.variant == "plain"][:2], (2.0, 4.0), strict=True):
        finish(run, 0.5)
        _set_hours(study, run, hours)
    assert cpu_times(study, study.runs, _planned) == {
        "plain": CpuTime(hours=3.0, origin=Origin.measured),
        "longer": CpuTime(hours=6.0, origin=Origin.scaled),
        "warm": CpuTime(hours=3.0, origin=Origin.scaled),
    }
    assert len(due_runs(study, study.runs)) == len(study.runs) - 2


@pytest.mark.parametrize(("jobs", "wall", "busy"), [(1, 12 / 8, 8), (2, 12 / 8, 8), (3, 12 / 6, 6), (16, 12 / 8, 8)])
def test_total_of__hours_for_jobs_that_share_the_cores(
    jobs: int, wall: float, busy: int, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "usable_cores", lambda: 8)
    times = cpu_times(study, study.runs, _planned)
    total = total_of(times, study.runs, jobs)
    assert (total.num_runs, total.hours) == (9, 12.0)
    assert (total.wall_hours, total.cores) == (pytest.approx(wall), busy)


def test_planned_core_hours__are_operations_over_the_rate(study: Study) -> None:
    experiment = study.runs[0].experiment
    (stage,) = stages_of(experiment).values()
    flops = count_flops(stage)
    operations = (flops.training + flops.loss_training) * stage.schedule.max_steps * stage.data.global_batch_size
    assert planned_core_hours(1e11, 0.4)(experiment) == pytest.approx(operations / 4e10 / 3600)


def test_print_dry_run__names_the_origin_and_fits_80_columns(
    study: Study, finish: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(cost, "usable_cores", lambda: 2)
    for run in study.runs[:3]:
        finish(run, 0.5)
        _set_hours(study, run, 0.5)
    print_dry_run(study, study.runs, jobs=2)
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown[shown.index("Cost of one run") :].splitlines()]
    assert next(row for row in rows if row[:1] == ["plain"])[-2:] == ["0.5", "runs"]
    assert next(row for row in rows if row[:1] == ["longer"])[-3:] == ["1", "plan,", "scaled"]
    assert "6 runs to train: 4.5 CPU-hours, about 2.2 hours on 2 cores with --jobs 2" in shown
    assert "from runs: mean time of the finished runs of the variant" in shown
    table = shown[shown.index("Cost of one run") : shown.index("6 runs to train")]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
