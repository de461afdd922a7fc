"""From exceptions to messages and exit codes."""

import errno
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from data_modules.errors import DataError
from kelip_lightning.__main__ import EXIT_CODES
from kelip_lightning.cli.failures import REQUEUE, StoppedError, describe, guarded, is_disk_full, stopped
from kelip_lightning.errors import (
    CheckpointWriteError,
    ConfigError,
    EncoderFileError,
    NonFiniteEmbeddingsError,
    NonFiniteError,
    PeerLostError,
    RunFolderError,
    StageInterrupted,
    Terminated,
)
from kelip_lightning.runs.folder import RunFolder

FULL = OSError(errno.ENOSPC, "No space left on device")


def raising(error: BaseException) -> Callable[[], int]:
    def verb() -> int:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError(["a is wrong"]), 2, "kelip: a is wrong\n"),
        (ConfigError(["a", "b", "c"]), 2, "kelip: 3 problems:\n  - a\n  - b\n  - c\n"),
        (DataError("no file"), 2, "kelip: no file\n"),
        (RunFolderError("is there"), 2, "kelip: is there\n"),
        (EncoderFileError("differs"), 2, "kelip: differs\n"),
        (NonFiniteEmbeddingsError("1 of 2 broken"), 2, "kelip: 1 of 2 broken\n"),
        (StoppedError("so far", 130), 130, "kelip: so far\n"),
        (KeyboardInterrupt(), 130, "kelip: interrupted before training\n"),
        (FULL, 1, "kelip: the disk is full"),
    ],
)
def test_guarded(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str) -> None:
    assert guarded(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.out == ""


def test_guarded__bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(raising(ZeroDivisionError()))
    with pytest.raises(FileNotFoundError):
        guarded(raising(FileNotFoundError(errno.ENOENT, "x")))


def test_describe__error_from_a_loader_process() -> None:
    text = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    assert describe(DataError(f"{text}data_modules.errors.DataError: image 3 is damaged\n")) == "image 3 is damaged"


def test_is_disk_full__whoever_reports_it() -> None:
    outer = RuntimeError("worker died")
    outer.__cause__ = FULL
    assert is_disk_full(outer)
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert is_disk_full(RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/3"))
    assert not is_disk_full(OSError(errno.EACCES, "x"))


def test_stopped__names_the_files_that_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "one")
    assert "has no checkpoint; to use" in str(stopped(KeyboardInterrupt(), run))
    checkpoint = run.stage("mae").checkpoints / "step=0000003"
    checkpoint.mkdir(parents=True)
    run.metrics.touch()
    run.image_encoder.mkdir()
    (run.image_encoder / "model.safetensors").touch()
    by_user, by_scheduler = (StageInterrupted(checkpoint, 3, by_user=by_user) for by_user in (True, False))
    for error, code, words in (
        (by_user, 130, "interrupted: stopped after step 3"),
        (by_scheduler, 75, "interrupted: stopped after step 3"),
        (Terminated("SIGTERM came"), 75, "SIGTERM came"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FULL, 1, "the disk is full"),
        (CheckpointWriteError("the checkpoint of step 6 could not be written"), 1, "step 6 could not"),
        (NonFiniteError("a loss of step 5 is not finite"), 1, "non_finite.policy=skip"),
        (PeerLostError("rank 0 stops"), 1, "rank 0 stops"),
        (NonFiniteEmbeddingsError("step 5: 1 of 2 image embeddings"), 1, "path of an older checkpoint"),
    ):
        found = stopped(error, run)
        assert found is not None
        assert found.exit_code == code
        for text in (words, checkpoint, run.metrics, run.image_encoder, "--resume auto"):
            assert str(text) in str(found)
    assert stopped(ValueError("bug"), run) is None


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"LOCAL_RANK": "1"}, 0),  # Lightning's launcher kills all when one that it started fails
        ({"RANK": "1", "LOCAL_RANK": "1"}, 75),
        ({"SLURM_PROCID": "1", "LOCAL_RANK": "1"}, 75),
    ],
)
def test_guarded__one_rank_prints_for_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], code: int
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    error = StoppedError("interrupted", 75)
    error.__cause__ = StageInterrupted(None, 0, by_user=False)
    assert guarded(raising(error)) == code
    assert capsys.readouterr().err == ""
    error.__cause__ = PeerLostError("rank 1 stops")
    assert guarded(raising(error)) == 75
    assert capsys.readouterr().err == "kelip: interrupted\n"


def test_exit_codes__before_the_first_import_are_those_of_later() -> None:
    """`__main__` says them again, since it imports nothing slow."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        assert EXIT_CODES[number] == REQUEUE
    by_ctrl_c = stopped(KeyboardInterrupt(), RunFolder(Path("run")))
    assert by_ctrl_c is not None
    assert EXIT_CODES[signal.SIGINT] == by_ctrl_c.exit_code
