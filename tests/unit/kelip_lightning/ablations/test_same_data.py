"""A run that was trained on other data is no run of the study."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from data_modules.errors import DataError
from data_modules.sources.config import SourceConfig
from kelip_lightning.ablations.pool import find_run
from kelip_lightning.ablations.same_data import refuse_other_data
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.errors import RunFolderError
from kelip_lightning.training.provenance import describe_data

TABLE = "key,concept,ko,en,image\n" + "".join(f"{n},{n},사과 {n},apple {n},{n}.png\n" for n in range(6))


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
def trained(on_table: Study, finish: Callable[..., None]) -> list[PlannedRun]:
    """Two finished runs of it with the record that training leaves."""
    runs = on_table.runs[:2]
    for run in runs:
        finish(run, 0.5)
        find_run(on_table.pool, run).data.write_text(describe_data(run.experiment).to_json(), encoding="utf-8")
    return runs


def test_refuse_other_data__same_data_wherever_it_lies(
    on_table: Study, trained: list[PlannedRun], table: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = table.rename(tmp_path / "elsewhere" / table.name)
    refuse_other_data(on_table.pool, [_reading(run, moved) for run in trained])


def test_refuse_other_data__says_which_run_and_what_changed(
    on_table: Study, trained: list[PlannedRun], table: Path
) -> None:
    table.write_text(TABLE.replace("apple 3", "melon 3"), encoding="utf-8")
    with pytest.raises(RunFolderError) as caught:
        refuse_other_data(on_table.pool, on_table.runs)
    told = str(caught.value)
    assert f"({trained[0].name}: contrastive: source 'own': pairs.csv changed" in told
    assert "and 1 more)" in told
    assert "--output FOLDER" in told


def test_refuse_other_data__templates_count_and_evaluation_sets_do_not(
    on_table: Study, trained: list[PlannedRun], tmp_path: Path
) -> None:
    stage = contrastive_of(trained[0].experiment)
    elsewhere = replace(stage, evaluation=EvaluationConfig())
    run = replace(trained[0], experiment=replace(trained[0].experiment, contrastive=elsewhere))
    refuse_other_data(on_table.pool, [run])
    file = tmp_path / "templates.yaml"
    file.write_text("name: {ko: ['{name}'], en: ['{name}']}\n", encoding="utf-8")
    captions = replace(stage.data.captions, templates_file=str(file))
    with pytest.raises(RunFolderError, match="the caption templates changed"):
        refuse_other_data(on_table.pool, [_with_data(run, captions=captions)])


def test_refuse_other_data__only_finished_runs_that_kept_a_record_are_compared(
    on_table: Study, trained: list[PlannedRun], table: Path
) -> None:
    table.unlink()
    find_run(on_table.pool, trained[0]).data.unlink()
    find_run(on_table.pool, trained[1]).write_status("interrupted")
    refuse_other_data(on_table.pool, on_table.runs)
    find_run(on_table.pool, trained[1]).write_status("finished")
    with pytest.raises(DataError):
        refuse_other_data(on_table.pool, on_table.runs)
