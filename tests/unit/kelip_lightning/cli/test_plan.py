"""`kelip plan`."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from kelip_lightning.cli import main
from kelip_lightning.cli.plan import print_estimate
from kelip_lightning.config.experiment import SCHEMAS
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.planning.estimate import StageEstimate, estimate
from tests.paths import ROOT

PAPER_SCALE = "experiments/kelip_b32"


def test_plan__as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = ["--gpu", "h100", "--mfu", "0.25", "--tile", "512", "--json"]
    assert main(["plan", f"{PAPER_SCALE}/contrastive.yaml", *options, "transform.num_local_crops=0"]) == 0
    stage = json.loads(capsys.readouterr().out)["contrastive"]
    assert round(stage["flops"]["training"] / 1e9, 2) == 41.52
    assert stage["throughput"]["utilisation"] == 0.25
    assert stage["tile"] == 512
    assert stage["memory"][0]["strategy"] == "ddp"


@cache
def _estimated(file: str) -> dict[str, StageEstimate]:
    schema = find_schema(ROOT / file, SCHEMAS)
    return estimate(load_experiment(ROOT / file, [], schema, on_this_machine=False).experiment)


def _rows(shown: str) -> list[list[str]]:
    """The cells of every line; columns are at least two spaces apart."""
    return [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]


def test_plan__as_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["plan", f"{PAPER_SCALE}/pretrain.yaml"]) == 0
    shown = capsys.readouterr().out
    rows = _rows(shown)
    for row in (["image tower", "87,849,216"], ["text tower", "88,726,016"], ["all", "176,575,233"]):
        assert row in rows
    assert ["one global crop + caption", "41.52"] in rows
    assert ["strategy", "ddp *", "ZeRO 1", "ZeRO 2", "ZeRO 3"] in rows
    assert ["total", "21.18", "18.93", "18.58", "18.18"] in rows
    assert ["fits", "yes", "yes", "yes", "yes"] in rows
    assert ["total, gradient checkpointing", "6.72", "4.47", "4.12", "3.73"] in rows
    assert ["evaluations", "118"] in rows
    assert ["block matrices", "48", "84,934,656", "0.2", "adamw", "0.0005"] in rows
    assert rows[rows.index(["logit scale"]) + 1] == ["norms, biases, scales", "1", "1", "0", "adamw", "0.0005"]
    assert "device-hours (estimate)" in shown
    assert ["parquet, row groups of 1,000", "1,184,000,000", "0.0947", "28.4160"] in rows


@pytest.mark.parametrize("file", [f"{PAPER_SCALE}/pretrain.yaml", "experiments/emoji/pretrain.yaml"])
@pytest.mark.parametrize("columns", ["80", "40"])
def test_plan__fits_80_columns(
    file: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {}
    for width in (columns, "200"):
        monkeypatch.setenv("COLUMNS", width)
        print_estimate(file, _estimated(file))
        shown[width] = capsys.readouterr().out
    lines = shown[columns].splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown[columns]
    # Lines may break between words; each word and number of the wide tables stands whole in the narrow ones.
    words = {width: Counter(text.replace("─", "").split()) for width, text in shown.items()}
    assert words[columns] == words["200"]


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
