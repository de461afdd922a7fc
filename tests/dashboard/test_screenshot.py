"""The screenshot command with a stand-in for Chromium, and its messages when something is missing."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.dashboard import screenshot


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Options for a folder with a TensorBoard file."""
    (tmp_path / "events.out.tfevents.1.host").touch()
    return ["--logdir", str(tmp_path), "--output", str(tmp_path / "out")]


def use_browser(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell script be Chromium, and nobody serve TensorBoard."""
    browser = tmp_path / "chromium"
    browser.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    browser.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(browser))
    monkeypatch.setattr(screenshot, "serving", lambda _: nullcontext("http://localhost:6006/"))


def test_main__takes_every_page(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_browser(f'printf "%s\\n" "$@" >> {tmp_path}/arguments', tmp_path, monkeypatch)
    assert screenshot.main([*options, "--window", "800", "600"]) == 0
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    assert arguments.count("--headless=new") == arguments.count("--window-size=800,600") == 6
    names = [one.removeprefix("--screenshot=") for one in arguments if one.startswith("--screenshot=")]
    pictures = ("first", "overview", "training", "evaluation", "images", "hyperparameters")
    assert names == [str(tmp_path / "out" / f"{name}.png") for name in pictures]
    addresses = [one for one in arguments if one.startswith("http")]
    assert addresses[0] == "http://localhost:6006/#"
    assert addresses[4:] == ["http://localhost:6006/#images", "http://localhost:6006/#hparams"]


def test_main__shows_why_the_browser_failed(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_browser("echo no display >&2; exit 3", tmp_path, monkeypatch)
    assert screenshot.main(options) == 1
    assert "no display" in capsys.readouterr().err


def test_main__without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert screenshot.main(["--logdir", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "make pretrain" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_main__without_a_browser(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert screenshot.main(options) == 1
    assert "no Chromium found" in capsys.readouterr().err
