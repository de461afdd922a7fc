"""metrics.jsonl."""

from pathlib import Path

import torch

from data_modules.json_lines import read_json_lines
from kelip_lightning.runs.metrics_file import MetricsFileLogger, cut_record, read_metrics
from tests.paths import FIXTURES


def test_log_metrics__a_line_each_from_several_stages(tmp_path: Path) -> None:
    file = tmp_path / "run" / "metrics.jsonl"
    MetricsFileLogger(file, stage="mae").log_metrics({"contrastive/loss": 0.5, "epoch": 0}, step=9)
    logger = MetricsFileLogger(file, stage="contrastive")
    logger.log_metrics({"eval/x_ko/median_rank": torch.tensor(3.0)}, 0)  # type: ignore[dict-item]
    logger.log_metrics({"contrastive/loss": float("nan"), "eval/사과": 1.0}, 1)
    logger.log_metrics({"epoch": 0}, 2)
    assert list(read_json_lines(file)) == [
        {"stage": "mae", "step": 9, "contrastive/loss": 0.5},
        {"stage": "contrastive", "step": 0, "eval/x_ko/median_rank": 3.0},
        {"stage": "contrastive", "step": 1, "contrastive/loss": None, "eval/사과": 1.0},
    ]


def test_cut_record__to_the_length_that_a_checkpoint_knows(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    logger = MetricsFileLogger(file, stage="mae")
    logger.log_metrics({"contrastive/loss": 0.5}, 0)
    length = file.stat().st_size
    logger.log_metrics({"contrastive/loss": 0.4}, 1)
    file.write_bytes(file.read_bytes() + b'{"stage": "mae", "st')
    cut_record(file, "mae", length)
    assert file.read_text(encoding="utf-8") == '{"stage": "mae", "step": 0, "contrastive/loss": 0.5}\n'
    cut_record(tmp_path / "none.jsonl", "mae", None)
    assert not (tmp_path / "none.jsonl").exists()


def test_cut_record__a_truncated_record_continues_in_the_next_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    logger = MetricsFileLogger(file, stage="mae")
    logger.log_metrics({"contrastive/loss": 0.5}, 0)
    logger.log_metrics({"contrastive/loss": 0.25}, 1)
    written = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-5])  # the disk has lost bytes that a checkpoint recorded
    cut_record(file, "mae", written)
    logger.log_metrics({"contrastive/loss": 0.125}, 2)
    assert [record["step"] for record in read_json_lines(file)] == [0, 2]


def test_cut_record__keeps_line_separators_in_names(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    MetricsFileLogger(file, stage="mae").log_metrics({"eval/a\u2028b\x1cc\r": 0.5}, 0)
    MetricsFileLogger(file, stage="contrastive").log_metrics({"contrastive/loss": 0.5}, 0)
    cut_record(file, "contrastive", None)
    assert list(read_json_lines(file)) == [{"stage": "mae", "step": 0, "eval/a\u2028b\x1cc\r": 0.5}]


def test_cut_record__a_stage_that_begins_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for stage in ("mae", "contrastive"):
        MetricsFileLogger(file, stage=stage).log_metrics({"contrastive/loss": 0.5}, 0)
    file.write_bytes(file.read_bytes() + b'{"stage": "mae", "st')
    cut_record(file, "contrastive", None)
    assert file.read_text(encoding="utf-8") == '{"stage": "mae", "step": 0, "contrastive/loss": 0.5}\n'


def test_read_metrics__translates_the_names_of_earlier_revisions(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    MetricsFileLogger(file, stage="mae").log_metrics({"train/loss": 0.5}, 0)
    older, current = (
        MetricsFileLogger(file, stage="contrastive"),
        {"contrastive/loss": 0.25, "eval/x_ko/mean_recall": 1},
    )
    older.log_metrics({"train/contrastive_accuracy_ko": 0.5, "train/loss_contrastive": 2, "data/mix/web": 1}, 1)
    older.log_metrics(current, 2)
    assert list(read_metrics(file)) == [
        {"stage": "mae", "step": 0, "mae/loss": 0.5},
        {
            "stage": "contrastive",
            "step": 1,
            "contrastive/accuracy_ko": 0.5,
            "contrastive/loss_contrastive": 2,
            "samples/mix/web": 1,
        },
        {"stage": "contrastive", "step": 2, **current},
    ]


def test_read_metrics__of_a_run_of_an_earlier_revision() -> None:
    entries = list(read_metrics(FIXTURES / "run_of_e16296c" / "runs" / "finished" / "metrics.jsonl"))
    assert {entry["stage"] for entry in entries if f"{entry['stage']}/loss" in entry} == {"mae", "contrastive"}
    assert not [key for entry in entries for key in entry if key.startswith(("train/", "data/"))]
