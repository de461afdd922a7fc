"""Run folders of revision e16296c are evaluated, exported and resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kelip_lightning.cli import main
from kelip_lightning.runs.metrics_file import read_metrics
from tests.paths import FIXTURES

FIXTURE = FIXTURES / "run_of_e16296c"


@pytest.fixture
def older_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs `finished` and `killed` (after step 9 of 14), which is the working directory."""
    folder = tmp_path / "older"
    shutil.copytree(FIXTURE, folder)
    monkeypatch.chdir(folder)
    return folder / "runs"


def _losses(run: Path) -> dict[tuple[str, int], float]:
    lines = read_metrics(run / "metrics.jsonl")
    return {(line["stage"], line["step"]): line[key] for line in lines if (key := f"{line['stage']}/loss") in line}


def test_evaluate__an_older_run(older_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "runs/finished", "--device", "cpu", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["models"]["runs/finished"]["metrics"]
    report = json.loads((older_runs / "finished" / "report.json").read_text(encoding="utf-8"))
    # The median rank had no direction in its name, and was that of image to text.
    before = {name.replace("/median_rank", "/image_to_text_median_rank"): v for name, v in report["metrics"].items()}
    assert {name: metrics[name] for name in before} == pytest.approx(before, abs=1e-6)


def test_export__an_older_run(older_runs: Path) -> None:
    assert main(["export", str(older_runs / "finished"), "--format", "open_clip", "--output", "exported"]) == 0
    weights = load_file("exported/open_clip_model.safetensors")
    own = load_file(older_runs / "finished" / "contrastive" / "dual_encoder" / "model.safetensors")
    assert torch.equal(weights["logit_scale"].flatten(), own["logit_scale"].flatten())


def test_resume__an_older_run_once_its_data_is_accepted(older_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pretrain", "pretrain.yaml", "name=killed", "--resume", "runs/killed"]
    assert main(command) == 2
    assert "--accept-changed-data" in capsys.readouterr().err
    assert main([*command, "--accept-changed-data"]) == 0
    # What that revision trained without being killed; crops of its PNG images have their edges on whole pixels now.
    assert _losses(older_runs / "killed") == pytest.approx(_losses(older_runs / "finished"), abs=1e-3)
    own, theirs = (
        older_runs / name / "contrastive" / "dual_encoder" / "tokenizer.json" for name in ("killed", "finished")
    )
    assert own.read_bytes() == theirs.read_bytes()
