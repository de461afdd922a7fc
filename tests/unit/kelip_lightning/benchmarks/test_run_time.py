"""The phases of a run, summed by stage, and the training for it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.benchmarks import run_time
from kelip_lightning.benchmarks.run_time import (
    PHASES,
    phases_of,
    time_new_run,
    time_of_run,
    write_run_report,
    write_small_experiment,
)
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import BenchmarkError, ConfigError, RunFolderError
from kelip_lightning.runs.timing import Session

SESSIONS = [
    {"began": "a", "seconds": {"other": 1.0, "imports": 2.0, "mae": 0.5, "mae/steps": 4.0, "mae/steps/loader": 1.0}},
    {"began": "b", "seconds": {"imports": 3.0, "contrastive/steps": 8.0, "contrastive/steps/loader": 2.0}},
]


def _write_timing(folder: Path, sessions: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "timing.json").write_text(json.dumps({"sessions": sessions}), encoding="utf-8")
    return folder


def test_phases_of__innermost_phases_by_stage_over_all_sessions() -> None:
    found = {one.name: one.seconds_of for one in phases_of([Session(**one) for one in SESSIONS])}
    assert found == {
        "imports": {"run": 5.0},
        "steps": {"mae": 4.0, "contrastive": 8.0},
        "loader": {"mae": 1.0, "contrastive": 2.0},
        "other": {"run": 1.0, "mae": 0.5},
    }
    assert list(found) == [name for name in PHASES if name in found]


def test_phases_of__keeps_phases_that_it_does_not_know() -> None:
    found = phases_of([Session(began="", seconds={"data": 1.0, "new thing": 2.0})])
    assert [one.name for one in found] == ["data", "new thing"]


def test_time_of_run__sums_to_the_whole(tmp_path: Path) -> None:
    found = time_of_run(_write_timing(tmp_path / "mine", SESSIONS))
    assert (found.name, found.num_sessions) == ("mine", 2)
    assert found.seconds == sum(sum(one["seconds"].values()) for one in SESSIONS)
    assert found.columns() == ["run", "mae", "contrastive"]


def test_time_of_run__of_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no timing\.json"):
        time_of_run(tmp_path)


def test_time_new_run__trains_by_the_file_s_verb_and_adds_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    ticks = iter([0.0, 20.0])

    def pretend(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        place = Path(command[-1].removeprefix("output_dir="))
        _write_timing(place / "benchmark", SESSIONS[:1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run_time.subprocess, "run", pretend)
    monkeypatch.setattr(run_time.time, "perf_counter", lambda: next(ticks))
    lines: list[str] = []
    found = time_new_run(write_small_experiment(tmp_path), ["seed=3"], lines.append)
    assert commands[0][1:7] == ["-m", "kelip_lightning", "pretrain", str(tmp_path / "smoke.yaml"), "seed=3",
                                "name=benchmark"]  # fmt: skip
    assert found.seconds == 20
    assert found.phases[0].name == "interpreter" and found.phases[0].seconds == 20 - 8.5
    assert "kelip pretrain" in lines[0]


def test_time_new_run__says_that_the_training_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 2)
    monkeypatch.setattr(run_time.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(BenchmarkError, match="exit code 2; see above"):
        time_new_run(write_small_experiment(tmp_path), [], lambda _: None)


def test_time_new_run__refuses_a_file_that_trains_nothing(tmp_path: Path) -> None:
    file = tmp_path / "sets.yaml"
    file.write_text("evaluation: {every_n_steps: 1}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="trains nothing"):
        time_new_run(file, [], lambda _: None)


def test_write_small_experiment__is_a_valid_experiment_of_both_stages(tmp_path: Path) -> None:
    experiment = load_experiment(write_small_experiment(tmp_path), [], PretrainExperiment).experiment
    assert experiment.mae is not None and experiment.mae.schedule.max_steps == 3


def test_write_run_report(tmp_path: Path) -> None:
    found = time_of_run(_write_timing(tmp_path / "mine", SESSIONS))
    numbers, plot = write_run_report(found, tmp_path / "out")
    written = json.loads(numbers.read_text(encoding="utf-8"))
    assert (written["seconds"], written["sessions"]) == (found.seconds, 2)
    assert {one["name"]: one["seconds"] for one in written["phases"]}["steps"] == 12.0
    assert plot.stat().st_size > 1000
