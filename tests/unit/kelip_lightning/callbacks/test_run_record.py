"""metrics.jsonl."""

import json
from pathlib import Path

import torch

from kelip_lightning.callbacks.run_record import MetricsFileLogger, cut_record


def test_log_metrics__a_line_each_from_several_stages(tmp_path: Path) -> None:
    file = tmp_path / "run" / "metrics.jsonl"
    MetricsFileLogger(file, stage="mae").log_metrics({"train/loss": 0.5, "epoch": 0}, step=9)
    logger = MetricsFileLogger(file, stage="contrastive")
    logger.log_metrics({"eval/x_ko/median_rank": torch.tensor(3.0)}, 0)  # type: ignore[dict-item]
    logger.log_metrics({"train/loss": float("nan"), "eval/사과": 1.0}, 1)
    logger.log_metrics({"epoch": 0}, 2)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"stage": "mae", "step": 9, "train/loss": 0.5},
        {"stage": "contrastive", "step": 0, "eval/x_ko/median_rank": 3.0},
        {"stage": "contrastive", "step": 1, "train/loss": None, "eval/사과": 1.0},
    ]


def test_cut_record__to_the_length_that_a_checkpoint_knows(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    logger = MetricsFileLogger(file, stage="mae")
    logger.log_metrics({"train/loss": 0.5}, 0)
    length = file.stat().st_size
    logger.log_metrics({"train/loss": 0.4}, 1)
    file.write_bytes(file.read_bytes() + b'{"stage": "mae", "st')
    cut_record(file, "mae", length)
    assert file.read_text(encoding="utf-8") == '{"stage": "mae", "step": 0, "train/loss": 0.5}\n'
    cut_record(tmp_path / "none.jsonl", "mae", None)
    assert not (tmp_path / "none.jsonl").exists()


def test_cut_record__a_stage_that_begins_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for stage in ("mae", "contrastive"):
        MetricsFileLogger(file, stage=stage).log_metrics({"train/loss": 0.5}, 0)
    file.write_bytes(file.read_bytes() + b'{"stage": "mae", "st')
    cut_record(file, "contrastive", None)
    assert file.read_text(encoding="utf-8") == '{"stage": "mae", "step": 0, "train/loss": 0.5}\n'
