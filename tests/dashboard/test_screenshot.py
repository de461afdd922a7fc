"""What the screenshot command says when something is missing; the pictures themselves are for people."""

from pathlib import Path

import pytest

from tests.dashboard import screenshot


def test_main__without_a_run_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert screenshot.main(["--logdir", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "make pretrain" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_main__without_a_browser_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events.out.tfevents.1.host").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert screenshot.main(["--logdir", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "no Chromium found" in capsys.readouterr().err
