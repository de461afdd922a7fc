"""What `kelip compare` prints and writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from kelip_lightning.cli import main
from kelip_lightning.comparison.output import COLUMNS
from tests.unit.kelip_lightning.comparison.conftest import METRIC, WriteRun, write_run

__all__ = ["write_run"]


@pytest.fixture
def words(write_run: WriteRun) -> list[str]:
    hits = {"scratch": [[1] * 6 + [0] * 54, [1] * 12 + [0] * 48], "mae": [[1] * 42 + [0] * 18, [1] * 45 + [0] * 15]}
    changes = {"scratch": [], "mae": ["optimizer.weight_decay=0.01"]}
    groups = {
        name: [str(write_run(f"{name}-{seed}", one, *changes[name], seed=seed)) for seed, one in enumerate(runs)]
        for name, runs in hits.items()
    }
    return [f"{name}={','.join(runs)}" for name, runs in groups.items()]


def test_compare__prints_settings_and_a_table(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| `contrastive.optimizer.weight_decay` | identity | 0.05 | 0.01 |" in lines
    assert "Within mae: contrastive.seed (identity): 0, 1" in lines
    header = next(line for line in lines if line.startswith("| metric"))
    assert header == "| metric | unit | scratch | mae | mae − scratch | verdict | chance |"
    row = next(line for line in lines if line.startswith("| unseen_design_ko/image_to_text_R@1"))
    assert row.startswith("| unseen_design_ko/image_to_text_R@1 | % | 15.0 ± 7.1 | 72.5 ± 3.5 | +57.5 [+")
    assert row.endswith(" | 1.0 |")


def test_compare__prints_each_unit(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words, "--all"]) == 0
    shown = capsys.readouterr().out
    assert (
        "| unseen_design_ko/image_to_text_median_rank | rank | 3.5 ± 0.7 | 3.5 ± 0.7 | +0.0 ± 0.0 | – | 30.0 |" in shown
    )
    assert "| captions/matched_minus_random | cosine | 0.250 ± 0.000 | 0.250 ± 0.000 |" in shown


def test_compare__writes_csv_and_json(words: list[str], tmp_path: Path) -> None:
    table, document = tmp_path / "new" / "c.csv", tmp_path / "c.json"
    assert main(["compare", *words, "--csv", str(table), "--json", str(document)]) == 0
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    mae = next(row for row in rows if (row["metric"], row["group"]) == (METRIC, "mae"))
    assert (float(mae["mean"]), float(mae["difference"]), mae["unit"]) == (0.725, pytest.approx(0.575), "share")
    assert (mae["num_items"], mae["num_pairs"], mae["interval_covers"]) == ("60", "2", "items and seeds")
    stored = json.loads(document.read_text(encoding="utf-8"))
    assert stored["settings"]["between"][0] == {
        "key": "contrastive.optimizer.weight_decay",
        "role": "identity",
        "values": {"scratch": ["0.05"], "mae": ["0.01"]},
    }
    typed = [{key: "" if value is None else str(value) for key, value in row.items()} for row in stored["metrics"]]
    assert typed == rows


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--strict"], 1)])
def test_compare__says_in_one_sentence_why_there_is_no_verdict(
    options: list[str], code: int, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_run("short", np.arange(60) % 2)
    long = write_run("long", np.ones(60), "schedule.max_steps=1600")
    assert main(["compare", f"a={short}", f"b={long}", *options]) == code
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "R@1" in line).split(" | ")[5] == "–"
    (reason,) = [line for line in lines if line.startswith("no verdict")]
    assert reason.startswith("no verdict for any metric: contrastive of ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/emoji"], "'runs/emoji' must be NAME=RUN,RUN,..."),
        (["a=x,,y"], "'a=x,,y' must be NAME=RUN,RUN,..."),
        (["a=x", "a=y"], "'a=y': there is a group a already"),
    ],
)
def test_compare__refuses_words_that_are_no_groups(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err
