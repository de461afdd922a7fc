"""Files that one process writes and others read."""

import os
import threading
from pathlib import Path

import pytest

from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import wait_for, write_whole


def test_write_whole__replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
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


def test_wait_for__says_what_it_waited_for(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has not written .*never\.json within 0\.1 s; .* one file system"):
        wait_for(tmp_path / "never.json", limit_seconds=0.1)
