"""`kelip plan`."""

import json
from pathlib import Path

import pytest

from kelip_lightning.cli import main
from tests.paths import ROOT

PAPER_SCALE = "experiments/kelip_b32"


def test_plan__as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = ["--gpu", "h100", "--mfu", "0.25", "--tile", "512", "--json"]
    assert main(["plan", f"{PAPER_SCALE}/contrastive.yaml", *options, "transform.num_local_crops=0"]) == 0
    stage = json.loads(capsys.readouterr().out)["contrastive"]
    assert round(stage["flops"]["training"] / 1e9, 2) == 44.33
    assert stage["throughput"]["utilisation"] == 0.25
    assert stage["tile"] == 512
    assert stage["memory"][0]["strategy"] == "ddp"


def test_plan__as_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["plan", f"{PAPER_SCALE}/pretrain.yaml"]) == 0
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    for row in (["image tower", "87,849,216"], ["text tower", "88,726,016"], ["all", "176,575,233"]):
        assert row in cells
    assert any(row[0] == "one global crop + caption" and row[-1] == "44.33" for row in cells)
    assert any(row[0] == "ddp *" and row[-1] == "yes" for row in cells)
    assert ["evaluations", "118"] in cells
    block_matrices = ["image encoder", "block matrices", "48", "84,934,656", "0.2", "adamw", "0.0005"]
    assert block_matrices in cells
    assert ["logit scale", "norms, biases, scales", "1", "1", "0", "adamw", "0.0005"] in cells
    assert "device-hours (estimate)" in shown


def test_plan__of_nothing_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "sets.yaml"
    file.write_text("evaluation: {every_n_steps: 5}\n", encoding="utf-8")
    assert main(["plan", str(file)]) == 2
    assert "nothing to plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--mfu", "40"), ("--mfu", "0"), ("--mfu", "fast"), ("--tile", "0"), ("--gpu", "t4")]
)
def test_plan__options_out_of_range(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", f"{PAPER_SCALE}/mae.yaml", *option])
    assert stopped.value.code == 2
    assert option[1] in capsys.readouterr().err
