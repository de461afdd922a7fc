"""The state of a run, by one line and the exit code."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from kelip_lightning.cli import main
from kelip_lightning.errors import PeerLostError, StageInterrupted
from kelip_lightning.runs.folder import RunFolder
from tests.faults.experiment import write_experiment


def new_run(folder: Path) -> RunFolder:
    return RunFolder.create(folder / "tiny", config="name: tiny\n", overrides=[], plan={})


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["status", *words])
    return code, capsys.readouterr().out.strip()


def test_status__of_each_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "tiny")
    assert ask(capsys, path) == (2, f"{path}: no run")
    run = new_run(tmp_path)
    with run.recorded():
        assert ask(capsys, path) == (3, f"{path}: running; no checkpoint")
    assert ask(capsys, path) == (0, f"{path}: finished")
    for error, code, name in (
        (StageInterrupted(None, 3, by_user=False), 75, "interrupted (StageInterrupted: stopped after step 3"),
        (KeyboardInterrupt(), 75, "interrupted"),
        (ValueError("the disk is gone\nmore"), 1, "failed (ValueError: the disk is gone)"),
    ):
        with pytest.raises(type(error)), run.recorded():
            raise error
        found, line = ask(capsys, path)
        assert found == code
        assert line.startswith(f"{path}: {name}")
        assert "\n" not in line


def ended_process() -> int:
    """The PID of a process that has ended."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def save_checkpoint(run: RunFolder, step: int) -> None:
    (run.path / "contrastive" / "checkpoints" / f"step={step:07d}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("before", "since", "code", "state"),
    [((), (), 4, "crashed"), ((7,), (), 4, "crashed"), ((), (7,), 5, "cut off"), ((7,), (9,), 5, "cut off")],
)
def test_status__of_a_process_that_is_gone(
    before: tuple[int, ...],
    since: tuple[int, ...],
    code: int,
    state: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = new_run(tmp_path)
    for step in before:
        save_checkpoint(run, step)
    with run.recorded():
        killed = run.read_status() | {"pid": ended_process()}
        for step in since:
            save_checkpoint(run, step)
    run.status.write_text(json.dumps(killed), encoding="utf-8")
    kept = f"newest checkpoint {run.checkpoints()[0]}" if before or since else "no checkpoint"
    assert ask(capsys, str(run.path)) == (code, f"{run.path}: {state}; {kept}")


@pytest.mark.parametrize(("saves", "code", "state"), [(True, 5, "cut off"), (False, 1, "failed")])
def test_status__of_a_run_that_lost_a_process(
    saves: bool, code: int, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path)
    save_checkpoint(run, 5)
    with suppress(PeerLostError), run.recorded():
        if saves:
            save_checkpoint(run, 10)
        raise PeerLostError("rank 0 stops, because another process of the run died")
    found, line = ask(capsys, str(run.path))
    assert found == code
    assert line.startswith(f"{run.path}: {state} (PeerLostError: rank 0 stops")


def test_status__an_error_of_its_own_is_no_reason_to_start_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path)
    with suppress(ValueError), run.recorded():
        save_checkpoint(run, 10)
        raise ValueError("no")
    assert ask(capsys, str(run.path))[0] == 1


def test_status__by_the_experiment_and_its_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_experiment(tmp_path)
    new_run(tmp_path)
    words = [str(file), f"output_dir={tmp_path}"]
    assert ask(capsys, *words)[1].startswith(f"{tmp_path / 'tiny'}: crashed")
    assert ask(capsys, *words, "name=other") == (2, f"{tmp_path / 'other'}: no run")
    assert ask(capsys, *words, "--resume", "auto")[0] == 4
    assert ask(capsys, *words, "name=other", "--resume", str(tmp_path / "tiny"))[1].startswith(f"{tmp_path / 'tiny'}:")


def test_status__overrides_of_a_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path), "seed=1"]) == 2
    assert "seed=1 has no effect on the run" in capsys.readouterr().err
