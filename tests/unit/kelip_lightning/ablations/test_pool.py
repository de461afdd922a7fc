"""States of runs, and which runs a study may reuse: of the same code and data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_modules.benchmarks.config import EvaluationConfig
from data_modules.errors import DataError
from data_modules.sources.config import SourceConfig
from kelip_lightning.ablations.collect import collect
from kelip_lightning.ablations.pool import (
    Revision,
    RunState,
    core_hours_of,
    find_folder,
    record_seconds,
    refuse_other_data,
    refuse_other_revisions,
    refuse_unfinished,
    revisions_of,
    seconds_of,
    state_of,
    steps_share_of,
)
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.cli import main
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.environment import code_digest, describe_environment
from kelip_lightning.training.provenance import describe_data

OLD = {"git": {"revision": "0123456789abcdef", "dirty": False}, "code": "fedcba987654"}
TABLE = "key,concept,ko,en,image\n" + "".join(f"{n},{n},사과 {n},apple {n},{n}.png\n" for n in range(6))


def test_pool__states(study: Study, finish: Callable[..., None]) -> None:
    run, cut_off, alive = study.runs[:3]
    assert state_of(find_folder(study.pool, run)) is RunState.missing
    finish(run, 0.5)
    assert state_of(find_folder(study.pool, run)) is RunState.finished
    for one in (cut_off, alive):
        find_folder(study.pool, one).path.mkdir()
    find_folder(study.pool, cut_off).write_status("interrupted")
    find_folder(study.pool, alive).write_status("running")
    assert state_of(find_folder(study.pool, cut_off)) is RunState.interrupted
    assert state_of(find_folder(study.pool, alive)) is RunState.running
    with pytest.raises(RunFolderError, match=f"1 of the runs were interrupted .{cut_off.name}.*--resume"):
        refuse_unfinished(study.pool, study.runs)
    refuse_unfinished(study.pool, [run, alive])


def test_pool__finds_a_run_under_another_studys_name(study: Study, finish: Callable[..., None]) -> None:
    run = study.runs[0]
    finish(run, 0.5)
    find_folder(study.pool, run).path.rename(study.pool / f"somebody-elses-{run.fingerprint}")
    assert find_folder(study.pool, run).name == f"somebody-elses-{run.fingerprint}"
    assert state_of(find_folder(study.pool, run)) is RunState.finished


def test_pool__seconds_add_up_over_resumptions(study: Study) -> None:
    folder = find_folder(study.pool, study.runs[0])
    folder.path.mkdir(parents=True)
    assert seconds_of(folder) is None
    record_seconds(folder, 10.0)
    record_seconds(folder, 2.5)
    assert seconds_of(folder) == 12.5
    folder.environment.write_text(json.dumps({"cpu_cores_allowed": 4}), encoding="utf-8")
    assert core_hours_of(folder) == pytest.approx(12.5 * 4 / 3600)


def test_pool__core_hours_are_those_of_the_runs_share(study: Study) -> None:
    folder = find_folder(study.pool, study.runs[1])
    folder.path.mkdir(parents=True)
    assert core_hours_of(folder) is None
    record_seconds(folder, 1800.0, cores=3)
    record_seconds(folder, 1800.0, cores=1)
    assert core_hours_of(folder) == pytest.approx(2.0)


def test_pool__share_of_the_time_in_steps(study: Study) -> None:
    folder = find_folder(study.pool, study.runs[1])
    folder.path.mkdir(parents=True)
    record_seconds(folder, 120.0)
    assert steps_share_of(folder) is None
    first = {"imports": 5.0, "mae/steps": 10.0, "mae/steps/loader": 2.0, "mae/steps/evaluation": 3.0}
    second = {"imports": 5.0, "contrastive/steps": 60.0, "contrastive/steps/loader": 6.0, "contrastive/model": 1.0}
    sessions = [{"began": "2026-01-01T00:00:00+0900", "seconds": one} for one in (first, second)]
    folder.timing.write_text(json.dumps({"sessions": sessions}), encoding="utf-8")
    assert steps_share_of(folder) == pytest.approx((10 + 2 + 60 + 6) / 120)


@pytest.fixture
def trained(study: Study, finish: Callable[..., None]) -> Callable[[int, dict[str, Any]], PlannedRun]:
    """A finished run of the study with this environment."""

    def write(number: int, environment: dict[str, Any]) -> PlannedRun:
        run = study.runs[number]
        finish(run, 0.5)
        find_folder(study.pool, run).environment.write_text(json.dumps(environment), encoding="utf-8")
        return run

    return write


def test_refuse_other_revisions__names_both_and_the_ways_out(
    study: Study, trained: Callable[[int, dict[str, Any]], PlannedRun]
) -> None:
    run = trained(0, OLD)
    trained(1, OLD)
    trained(2, describe_environment())
    with pytest.raises(RunFolderError) as caught:
        refuse_other_revisions(study.pool, study.runs, [])
    message = str(caught.value)
    assert f"{run.name} and 1 more by 0123456789 (code fedcba987654)" in message
    assert f"and this is {Revision.of_now()}" in message
    assert code_digest() in message
    assert "--accept-revision 0123456789," in message
    assert "--output FOLDER" in message
    for accepted in ("any", "0123456789", "0123456", "0123456789abcdef", "fedcba987654"):
        refuse_other_revisions(study.pool, study.runs, [accepted])
    for other in ("012345", "1234567", ""):
        with pytest.raises(RunFolderError, match="trained by another revision"):
            refuse_other_revisions(study.pool, study.runs, [other])


def test_refuse_other_revisions__a_commit_that_changes_no_code_is_none(
    study: Study, trained: Callable[[int, dict[str, Any]], PlannedRun]
) -> None:
    trained(0, OLD | {"code": code_digest()})
    trained(1, {"git": {"revision": None, "dirty": None}, "code": code_digest()})
    refuse_other_revisions(study.pool, study.runs, [])


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        (
            {"git": {"revision": "0123456789abcdef", "dirty": True}, "code": "aaaabbbbcccc"},
            "0123456789+changes.aaaabbbbcccc",
        ),
        ({"git": {"revision": "0123456789abcdef", "dirty": True}}, "0123456789+changes"),
        ({"git": {"revision": None, "dirty": None}, "code": "aaaabbbbcccc"}, "unknown.aaaabbbbcccc"),
        ({"git": {"revision": "0123456789abcdef", "dirty": False}}, "0123456789"),
        ({}, "unknown"),
    ],
)
def test_refuse_other_revisions__changed_and_unknown_code_is_accepted_by_its_whole_name(
    environment: dict[str, Any], shown: str, study: Study, trained: Callable[[int, dict[str, Any]], PlannedRun]
) -> None:
    trained(0, environment)
    with pytest.raises(RunFolderError, match=rf"--accept-revision {shown.replace('+', '.')},"):
        refuse_other_revisions(study.pool, study.runs, ["deadbeef0"])
    refuse_other_revisions(study.pool, study.runs, [shown])
    if "+" in shown:
        with pytest.raises(RunFolderError):
            refuse_other_revisions(study.pool, study.runs, ["0123456789"])


def test_revisions_of__a_resumed_run_has_all_of_them(
    study: Study, trained: Callable[[int, dict[str, Any]], PlannedRun]
) -> None:
    run = trained(0, describe_environment())
    folder = find_folder(study.pool, run)
    lines = [{"environment": one} for one in (describe_environment(), OLD, OLD)]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.path / "resumes.jsonl").write_text(f'{whole}{{"environ', encoding="utf-8")
    assert revisions_of(folder) == [Revision.of_now(), Revision.of(OLD)]
    with pytest.raises(RunFolderError, match="by 0123456789"):
        refuse_other_revisions(study.pool, study.runs, [])
    records = {one.folder: one.revision for one in collect(study).runs}
    assert records[run.name] == f"{Revision.of_now()} then 0123456789"


def test_ablate__refuses_before_it_trains_and_reports_what_is_accepted(
    study: Study,
    study_file: Path,
    trained: Callable[[int, dict[str, Any]], PlannedRun],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(2):
        trained(number, OLD)
    command = ["ablate", str(study_file), "--output", str(study.output), "--seeds", "2"]
    for also in ([], ["--report"], ["--dry-run"]):
        assert main([*command, *also]) == 2
        assert "were trained by another revision of the code" in capsys.readouterr().err
    assert main([*command, "--report", "--accept-revision", "0123456"]) == 0
    assert "report.html" in capsys.readouterr().out


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.csv"
    file.write_text(TABLE, encoding="utf-8")
    return file


@pytest.fixture
def on_table(study: Study, table: Path) -> Study:
    """The study with a table of its own as its only source."""
    return replace(study, runs=[_reading(run, table) for run in study.runs])


def _reading(run: PlannedRun, table: Path) -> PlannedRun:
    sources = {"own": SourceConfig(files=[str(table)], captions={"ko": "ko", "en": "en"})}
    return _with_data(run, sources=sources)


def _with_data(run: PlannedRun, **changes: Any) -> PlannedRun:
    stage = contrastive_of(run.experiment)
    stage = replace(stage, data=replace(stage.data, **changes))
    return replace(run, experiment=replace(run.experiment, contrastive=stage))


@pytest.fixture
def trained_on_table(on_table: Study, finish: Callable[..., None]) -> list[PlannedRun]:
    """Two finished runs of it with the record that training leaves."""
    runs = on_table.runs[:2]
    for run in runs:
        finish(run, 0.5)
        find_folder(on_table.pool, run).data.write_text(describe_data(run.experiment).to_json(), encoding="utf-8")
    return runs


def test_refuse_other_data__same_data_wherever_it_lies(
    on_table: Study, trained_on_table: list[PlannedRun], table: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = table.rename(tmp_path / "elsewhere" / table.name)
    refuse_other_data(on_table.pool, [_reading(run, moved) for run in trained_on_table])


def test_refuse_other_data__says_which_run_and_what_changed(
    on_table: Study, trained_on_table: list[PlannedRun], table: Path
) -> None:
    table.write_text(TABLE.replace("apple 3", "melon 3"), encoding="utf-8")
    with pytest.raises(RunFolderError) as caught:
        refuse_other_data(on_table.pool, on_table.runs)
    message = str(caught.value)
    assert f"({trained_on_table[0].name}: contrastive: source 'own': pairs.csv changed" in message
    assert "and 1 more)" in message
    assert "--output FOLDER" in message


def test_refuse_other_data__templates_count_and_evaluation_sets_do_not(
    on_table: Study, trained_on_table: list[PlannedRun], tmp_path: Path
) -> None:
    stage = contrastive_of(trained_on_table[0].experiment)
    elsewhere = replace(stage, evaluation=EvaluationConfig())
    run = replace(trained_on_table[0], experiment=replace(trained_on_table[0].experiment, contrastive=elsewhere))
    refuse_other_data(on_table.pool, [run])
    file = tmp_path / "templates.yaml"
    file.write_text("name: {ko: ['{name}'], en: ['{name}']}\n", encoding="utf-8")
    captions = replace(stage.data.captions, templates_file=str(file))
    with pytest.raises(RunFolderError, match="the caption templates changed"):
        refuse_other_data(on_table.pool, [_with_data(run, captions=captions)])


def test_refuse_other_data__only_finished_runs_that_kept_a_record_are_compared(
    on_table: Study, trained_on_table: list[PlannedRun], table: Path
) -> None:
    table.unlink()
    find_folder(on_table.pool, trained_on_table[0]).data.unlink()
    find_folder(on_table.pool, trained_on_table[1]).write_status("interrupted")
    refuse_other_data(on_table.pool, on_table.runs)
    find_folder(on_table.pool, trained_on_table[1]).write_status("finished")
    with pytest.raises(DataError):
        refuse_other_data(on_table.pool, on_table.runs)
