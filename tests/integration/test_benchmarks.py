"""Every benchmark runs, on little data."""

import json
import sys
from pathlib import Path

import pytest

from kelip_lightning.benchmarks.gpu_report.parts import PARTS
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


def test_growth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "step", "--growth", "--smoke", "--device", "cpu", "--output", str(tmp_path)]
    assert main(words) == 0
    written = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    assert len(written["summary"]) == 9
    assert all(one["seconds"] > 0 and one["flops"] > 0 for one in written["summary"])
    assert "MAE, 75%" in capsys.readouterr().out


def test_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "loss", "--smoke", "--device", "cpu", "--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "loss.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in written["cases"]] == ["plain autograd", "whole matrix", "chunks of 256"]
    assert "chunks of 256" in capsys.readouterr().out
    assert (tmp_path / "loss.png").is_file()


@pytest.mark.slow  # nine processes, each of which imports everything
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "evaluation", "--smoke", "--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert written["cost"]["same_outcomes"] is True
    assert min(written["cost"]["seconds"].values()) > 0
    assert "item by item: yes" in capsys.readouterr().out


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["benchmark", "data", "--smoke", "--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    ((side, rates),) = ((one["side"], one["samples_per_second"]) for one in written["sizes"])
    assert side == 256 and list(rates) == ["raw", "bound", "one", "six", "device", "planes", "peer"]
    assert min(rates.values()) > 0
    assert "YUV420 shards / JPEG" in capsys.readouterr().out


def test_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "run", "--smoke", "--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    phases = {one["name"]: one["seconds_of"] for one in written["phases"]}
    assert {"interpreter", "imports", "data", "tokenizer"} <= phases.keys()
    for name in ("model", "steps", "loader", "checkpoints", "export"):
        assert min(phases[name]["mae"], phases[name]["contrastive"]) > 0, name
    assert phases["evaluation"]["contrastive"] > 0
    assert sum(one["seconds"] for one in written["phases"]) == pytest.approx(written["seconds"])
    assert "evaluation" in capsys.readouterr().out


@pytest.mark.slow  # some thirty processes, each of which imports everything
def test_gpu_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "gpu", "--smoke", "--time-factor", "5", "--output", str(tmp_path)]
    code = main(words)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert {one["part"]: (one["status"], one["reasons"]) for one in written["parts"]} == {
        one.name: ("ok", []) for one in PARTS
    }
    assert code == 0
    assert all(one["figures"] for one in written["parts"])
    assert main(words) == 0
    assert capsys.readouterr().err.count("done before") == len(PARTS)
