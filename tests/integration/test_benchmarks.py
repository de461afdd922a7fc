"""Every benchmark runs, on little data."""

import json
from pathlib import Path

import pytest

from kelip_lightning.cli import main


def test_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "step", "--smoke", "--device", "cpu", "--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    names = ["ours", "open_clip_77", "open_clip_longest", "plain"]
    assert [one["name"] for one in written["summary"]] == names
    assert written["agreement"]["holds"] is True
    assert [one["peer"] for one in written["agreement"]["peers"]] == names[1:]
    (done,) = written["rounds"]
    assert all(done["contestants"][name]["times"]["seconds"] > 0 for name in names)
    assert 0 < written["ceiling"]["our_share"] < 1
    assert (tmp_path / "step.png").stat().st_size > 1000
    captured = capsys.readouterr()
    assert all(name in captured.out for name in names)
    assert "round 1 of 1" in captured.err
