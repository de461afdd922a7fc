"""Running runs: reuse, failures, interruption, and the Slurm array."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.ablations import execution
from kelip_lightning.ablations.execution import command_of, execute, write_array
from kelip_lightning.ablations.pool import RunState, find_folder, seconds_of, state_of
from kelip_lightning.ablations.study import Study
from kelip_lightning.errors import ConfigError

# Replaces the command line: by its name, a run finishes, fails or waits.
PROGRAM = """
import json, pathlib, signal, sys, time
values = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path(values["output_dir"], values["name"])
folder.mkdir(exist_ok=True)
(folder / "calls.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")
if values["name"].startswith("longer-1"):
    print("first line")
    sys.exit("no such thing")
if values["name"].startswith("warm"):
    signal.signal(signal.SIGINT, lambda *_: (print("interrupted", flush=True), sys.exit(130)))
    (folder / "waiting").touch()
    time.sleep(60)
(folder / "report.json").write_text("{}")
(folder / "status.json").write_text(json.dumps({"state": "finished"}))
"""


@pytest.fixture
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setattr(execution, "PROGRAM", (sys.executable, str(script)))


@pytest.mark.usefixtures("_program")
@pytest.mark.parametrize("jobs", [1, 3])
def test_execute__a_failure_costs_no_other_run_and_finished_ones_are_reused(study: Study, jobs: int) -> None:
    runs = [run for run in study.runs if run.variant != "warm"]
    lines: list[str] = []
    (failure,) = execute(study, runs, jobs, lines.append)
    assert (failure.run.variant, failure.run.seed, failure.exit_code, failure.reason) == (
        "longer",
        1,
        1,
        "no such thing",
    )
    assert failure.log.read_text(encoding="utf-8").startswith("first line")
    states = [state_of(find_folder(study.pool, run)) for run in runs]
    assert states.count(RunState.finished) == 5
    assert all((seconds_of(find_folder(study.pool, run)) or 0) > 0 for run in runs)
    assert lines[0] == f"0 of 6 runs exist already; 6 to train, {jobs} at a time"
    assert len(lines) == 7

    execute(study, runs, jobs, lines.append)
    assert lines[7] == f"5 of 6 runs exist already; 1 to train, {jobs} at a time"
    calls = [(find_folder(study.pool, run).path / "calls.txt").read_text(encoding="utf-8") for run in runs]
    assert [text.count("\n") for text in calls] == [1, 1, 1, 1, 2, 1]
    assert "--resume auto" in calls[4]


@pytest.mark.usefixtures("_program")
def test_execute__sigterm_ends_the_processes_and_starts_no_other(study: Study) -> None:
    runs = [run for run in study.runs if run.variant == "warm"]
    first = find_folder(study.pool, runs[0]).path

    def terminate() -> None:
        deadline = time.monotonic() + 30
        while not (first / "waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(KeyboardInterrupt, match="received SIGTERM"):
        execute(study, runs, 1, lambda _: None)
    assert (study.pool / f"{runs[0].name}.log").read_text(encoding="utf-8") == "interrupted\n"
    assert not find_folder(study.pool, runs[1]).path.exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def _on_nodes(study: Study, number: int) -> Study:
    def moved(run: Any) -> Any:
        stage = run.experiment.contrastive
        trainer = replace(stage.trainer, num_nodes=number, devices=8, accelerator="gpu")
        return replace(run, experiment=replace(run.experiment, contrastive=replace(stage, trainer=trainer)))

    return replace(study, runs=[moved(run) for run in study.runs])


def test_execute__several_nodes_need_the_array(study: Study) -> None:
    several = _on_nodes(study, 10)
    with pytest.raises(ConfigError, match=r"variant plain trains on 10 nodes .*--dry-run"):
        execute(several, several.runs, 1, lambda _: None)


def test_write_array__a_task_runs_its_line(study: Study, tmp_path: Path) -> None:
    several = _on_nodes(study, 10)
    script = write_array(several, several.runs)
    text = script.read_text(encoding="utf-8")
    for line in ("--array=0-8", "--nodes=10", "--ntasks-per-node=8", "--gpus-per-node=8"):
        assert f"#SBATCH {line}\n" in text
    (tmp_path / "srun").write_text('#!/bin/sh\nshift 3\nprintf "%s\\n" "$@"\nexit 75\n', encoding="utf-8")
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "scontrol $*"\n', encoding="utf-8")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
    fifth = several.runs[4]
    expected = command_of(fifth, several.base, several.pool / fifth.name)
    assert done.stdout.splitlines() == [*expected, "scontrol requeue 77"]
    assert shlex.split((script.parent / "runs.txt").read_text(encoding="utf-8").splitlines()[4]) == expected


def test_write_array__refuses_different_resources(study: Study) -> None:
    mixed = [*study.runs[:1], *_on_nodes(study, 2).runs[1:]]
    with pytest.raises(ConfigError, match="the variants ask for different resources"):
        write_array(study, mixed)


def test_execute__nothing_to_do(study: Study, finish: Callable[..., None]) -> None:
    finish(study.runs[0], 0.5)
    lines: list[str] = []
    assert execute(study, study.runs[:1], 2, lines.append) == []
    assert lines == ["1 of 1 runs exist already; 0 to train, 2 at a time"]
