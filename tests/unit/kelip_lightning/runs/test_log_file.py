"""log.txt of a run, and where progress lines are printed."""

import logging
import re
from pathlib import Path

import pytest

from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.log_file import PROGRESS, ProgressHandler, log_file

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    progress = logging.getLogger(PROGRESS)
    monkeypatch.setattr(progress, "propagate", False)
    monkeypatch.setattr(progress, "level", logging.INFO)
    return RunFolder(tmp_path)


def test_log_file__messages_progress_and_the_last_error(run: RunFolder) -> None:
    for number in (1, 2):
        with pytest.raises(ValueError, match="the disk"), log_file(run):  # noqa: PT012
            logging.getLogger("kelip_lightning.callbacks.data_health").warning("3 of 9 samples")
            logging.getLogger(PROGRESS).info("mae step %d/9", number)
            raise ValueError("the disk is full")
    logging.getLogger(PROGRESS).info("not in the run")
    lines = run.log.read_text(encoding="utf-8").splitlines()
    assert [re.sub(f"^{TIME}  ", "", line) for line in lines] == [
        "WARNING  3 of 9 samples", "INFO     mae step 1/9", "ERROR    the disk is full",
        "WARNING  3 of 9 samples", "INFO     mae step 2/9", "ERROR    the disk is full",
    ]  # fmt: skip


def test_log_file__of_the_first_process_alone(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with log_file(run):
        logging.getLogger(PROGRESS).info("a line")
    assert not run.log.exists()


def test_log_file__a_full_disk_does_not_end_the_run(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.log.symlink_to("/dev/full")
    with log_file(run):
        logging.getLogger(PROGRESS).info("a line")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_handler__prints_unless_there_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    ProgressHandler().handle(logging.makeLogRecord({"msg": "mae step 1/9"}))
    printed = capsys.readouterr().out
    assert re.fullmatch(f"{TIME}  mae step 1/9\n", printed) if not is_terminal else printed == ""
