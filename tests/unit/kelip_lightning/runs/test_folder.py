"""Run folders: records, refusals, status, and files written by one process and read by others."""

import json
import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import (
    Liveness,
    RunFolder,
    describe_process,
    is_first_process,
    run_of_checkpoint,
    wait_for,
    write_whole,
)


@pytest.fixture(autouse=True)
def _single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def create(path: Path, needed_bytes: int = 0) -> RunFolder:
    return RunFolder.create(
        path, config="name: 사과\n", overrides=["seed=1", "a.b=[x]"], plan={"stages": {}}, needed_bytes=needed_bytes
    )


def test_create__writes_the_records(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)  # an empty folder may exist
    run = create(tmp_path / "runs" / "one")
    names = {"config.yaml", "overrides.txt", "plan.yaml", "environment.json"}
    assert {file.name for file in run.path.iterdir()} == names
    assert run.config.read_text(encoding="utf-8") == "name: 사과\n"
    assert run.overrides.read_text(encoding="utf-8") == "seed=1\na.b=[x]\n"
    assert yaml.safe_load(run.plan.read_text(encoding="utf-8")) == {"stages": {}}
    assert json.loads(run.environment.read_text(encoding="utf-8"))["python"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"state": "finished"}, "a finished run"),
        ({"state": "interrupted"}, "an interrupted run"),
        ({"state": "failed"}, "a run that failed"),
        ({"state": "running", **describe_process()}, "a run that is in progress"),
        (
            {"state": "running", "pid": 2**22 + 1, "host": socket.gethostname()},
            "a run that crashed",
        ),
        (None, "a run that crashed"),
    ],
)
def test_create__never_over_another_run(tmp_path: Path, status: dict[str, object] | None, expected: str) -> None:
    run = create(tmp_path / "one")
    if status:
        run.status.write_text(json.dumps(status), encoding="utf-8")
    before = sorted(run.path.iterdir())
    with pytest.raises(RunFolderError, match=expected) as caught:
        create(tmp_path / "one")
    assert "name=NEW_NAME" in str(caught.value)
    assert sorted(run.path.iterdir()) == before


def test_create__over_something_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="files of something else"):
        create(tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        create(tmp_path / "file")
    with pytest.raises(RunFolderError, match="cannot be written"):
        create(tmp_path / "file" / "below")


def test_create__full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(RunFolderError, match="has 1 MiB free, and this run may need 5 MiB"):
        create(tmp_path / "one", needed_bytes=5 * 2**20)
    assert not (tmp_path / "one").exists()


def test_create__not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunFolderError, match="Permission denied"):
        create(tmp_path / "one")


def test_create__other_ranks_only_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_process()
    create(tmp_path / "one")
    assert not (tmp_path / "one").exists()
    monkeypatch.setenv("RANK", "0")
    assert is_first_process()


def test_recorded__states(tmp_path: Path) -> None:
    run = create(tmp_path / "one")
    with run.recorded():
        assert run.read_status()["state"] == "running"
    assert run.read_status()["state"] == "finished"
    with pytest.raises(ValueError, match="broken"), run.recorded():
        raise ValueError("broken")
    assert run.read_status()["state"] == "failed"
    assert run.read_status()["reason"] == "ValueError: broken"
    with pytest.raises(KeyboardInterrupt), run.recorded():
        raise KeyboardInterrupt
    assert run.read_status()["state"] == "interrupted"


def test_recorded__ctrl_c_that_became_an_exit(tmp_path: Path) -> None:
    run = create(tmp_path / "one")

    def leave_like_lightning() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(SystemExit), run.recorded():
        leave_like_lightning()
    assert run.read_status()["state"] == "interrupted"


def test_open(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist; train one first"):
        RunFolder.open(tmp_path / "none")
    run = create(tmp_path / "one")
    with pytest.raises(RunFolderError, match=r"the runs in .* are one"):
        RunFolder.open(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder.open(tmp_path / "other")
    run.write_status("finished")
    run.stage("mae").path.mkdir()
    with pytest.raises(RunFolderError, match="a finished run of MAE pre-training alone"):
        RunFolder.open(tmp_path / "one")
    run.dual_encoder.mkdir(parents=True)
    (run.dual_encoder / "model.safetensors").touch()
    assert RunFolder.open(str(tmp_path / "one")).name == "one"


def test_stage__folders_and_checkpoints(tmp_path: Path) -> None:
    run = create(tmp_path / "one")
    stage = run.stage("contrastive")
    assert stage.path == run.path / "contrastive"
    assert stage.metrics_file == run.path / "metrics.jsonl"
    for folder in ("mae/checkpoints/step=0000300", "contrastive/checkpoints/step=0000002"):
        (run.path / folder).mkdir(parents=True)
    (stage.checkpoints / "step=0000010").mkdir()
    (stage.checkpoints / ".step=0000020.partial").mkdir()
    assert [str(one.relative_to(run.path)) for one in run.checkpoints()] == [
        "contrastive/checkpoints/step=0000010",
        "contrastive/checkpoints/step=0000002",
        "mae/checkpoints/step=0000300",
    ]
    for path in (run.checkpoints()[2], run.checkpoints()[2] / "state.ckpt"):
        found = run_of_checkpoint(path)
        assert found is not None
        assert (found[0].path, found[1]) == (run.path, "mae")
    assert run_of_checkpoint(run.path) is None
    run.config.unlink()
    assert run_of_checkpoint(run.checkpoints()[2]) is None, "checkpoints of something else"


def test_liveness__by_process_start_host_and_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create(tmp_path / "one")
    assert run.liveness() is Liveness.dead
    run.write_status("running")
    assert run.liveness() is Liveness.alive
    status = run.read_status()
    for change, expected in (
        ({"process_start": status["process_start"] + 1}, Liveness.dead),  # the number now belongs to another process
        ({"host": "elsewhere"}, Liveness.unknown),
        ({"host": "elsewhere", "job": "17"}, Liveness.dead),
        ({"host": "elsewhere", "job": "18"}, Liveness.unknown),
    ):
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        run.status.write_text(json.dumps(status | change), encoding="utf-8")
        assert run.liveness() is expected


def test_has_finished__by_the_last_output_of_a_stage(tmp_path: Path) -> None:
    run = create(tmp_path / "one")
    assert not run.has_finished("mae")
    run.image_encoder.mkdir(parents=True)
    (run.image_encoder / "model.safetensors").touch()
    assert run.has_finished("mae")
    assert not run.has_finished("contrastive")
    run.report.touch()
    assert run.has_finished("contrastive")


def test_write_whole__replaces_the_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "하나")
    write_whole(tmp_path / "a.json", "둘")
    assert {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()} == {"a.json": "둘"}


def test_write_whole__a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a.json", "whole")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", "half")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "whole"


def test_wait_for__returns_once_the_file_is_there(tmp_path: Path) -> None:
    file = tmp_path / "late.json"
    writer = threading.Timer(0.3, write_whole, (file, "{}"))
    writer.start()
    wait_for(file, limit_seconds=30)
    assert file.read_text(encoding="utf-8") == "{}"
    writer.join()


def test_wait_for__names_the_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has not written .*never\.json within 0\.1 s; .* one file system"):
        wait_for(tmp_path / "never.json", limit_seconds=0.1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_liveness__a_process_that_has_ended_is_dead_before_its_parent_asks(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    child = os.fork()
    if not child:
        run.write_status("running")
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert run.read_status()["pid"] == child
    assert run.liveness() is Liveness.dead
    os.waitpid(child, 0)
