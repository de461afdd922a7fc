"""The tables after a run."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from kelip_lightning.cli.report import metrics_table, print_result, read_report, rows_of
from kelip_lightning.runs.folder import RunFolder

METRICS = {
    "eval/unseen_design_ko/image_to_text_R@1": 0.21,
    "eval/unseen_design_ko/median_rank": 14.0,
    "eval/unseen_design_en/image_to_text_R@1": 0.25,
    "eval/captions/ko_to_en_R@1": 0.55,
    "eval/captions/en_to_ko_R@1": 0.5,
    "eval/groups_en/zero_shot_top1": 0.125,
    "contrastive/loss": 3.0,
}
CHANCE = {
    "eval/unseen_design_ko/image_to_text_R@1": 1 / 1870,
    "eval/unseen_design_en/image_to_text_R@1": 1 / 1870,
    "eval/captions/ko_to_en_R@1": 1 / 3655,
    "eval/captions/en_to_ko_R@1": 1 / 3655,
}


def rendered(headline: bool) -> list[str]:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(metrics_table(METRICS, CHANCE, "title", headline=headline))
    return capture.get().splitlines()


def test_rows_of__both_languages_of_a_metric_in_one_row() -> None:
    assert rows_of(METRICS) == {
        ("unseen_design", "image_to_text_R@1"): {"ko": 0.21, "en": 0.25},
        ("unseen_design", "median_rank"): {"ko": 14.0},
        ("captions", "caption_to_caption_R@1"): {"ko": 0.55, "en": 0.5},
        ("groups", "zero_shot_top1"): {"en": 0.125},
    }


def test_metrics_table__cells() -> None:
    lines = rendered(headline=False)
    (line,) = [one for one in lines if "image → text R@1" in one]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "unseen_design",
        "image → text R@1",
        "21.00 %",
        "25.00 %",
        "0.05 %",
    ]
    assert any("14.0" in one for one in lines)
    assert any("zero shot top1" in one and "–" in one for one in lines)
    assert not any("median rank" in one for one in rendered(headline=True))


def test_print_result__reads_chance_from_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path)
    assert read_report(run) == {}
    run.report.write_text(json.dumps({"metrics": METRICS, "chance": CHANCE}), encoding="utf-8")
    print_result(run, METRICS)
    shown = capsys.readouterr().out
    assert "0.03 %" in shown
    for next_step in ("make tensorboard", f"kelip evaluate {tmp_path}", f"kelip predict {tmp_path}"):
        assert next_step in shown
