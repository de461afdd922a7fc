"""Folders of finished runs, written without training."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.sources.fingerprint import FileFingerprint, SourceFingerprint
from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.evaluation.tasks import TaskItems
from kelip_lightning.runs.items import write_items
from kelip_lightning.training.provenance import DataRecord
from tests.paths import ROOT

TASK = "eval/unseen_design_ko/image_to_text"
METRIC, MEDIAN = f"{TASK}_R@1", f"{TASK}_median_rank"
COSINE = "eval/captions/matched_minus_random"
SOURCE = SourceFingerprint(
    format="table",
    num_samples=100,
    selection={},
    files=(FileFingerprint(name="a.parquet", size=10, num_rows=100, digest="d"),),
)
SET = FileFingerprint(name="set.parquet", size=5, num_rows=60, digest="s")
NUM_ITEMS = 60

WriteRun = Callable[..., Path]


@cache
def _config(overrides: tuple[str, ...]) -> str:
    file = ROOT / "experiments" / "emoji" / "contrastive.yaml"
    return load_experiment(
        file, ["init.image_encoder=null", *overrides], ContrastiveExperiment, on_this_machine=False, heavy=False
    ).resolved


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a finished run with these hits; returns its folder."""

    def write(
        name: str,
        hits: Sequence[float] | np.ndarray,
        *overrides: str,
        seed: int = 0,
        source: SourceFingerprint | None = SOURCE,
        evaluation: FileFingerprint = SET,
        texts: Sequence[str] | None = None,
        has_items: bool = True,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        hits = np.asarray(hits, dtype=float)
        (folder / "config.yaml").write_text(_config((f"name={name}", f"seed={seed}", *overrides)), encoding="utf-8")
        metrics: dict[str, Any] = {METRIC: hits.mean(), MEDIAN: 3.0 + seed, COSINE: 0.25}
        report = {"step": 1, "metrics": metrics, "chance": {METRIC: 0.01, MEDIAN: 30.0}}
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
        if has_items:
            names = list(texts or [f"사과 {n}" for n in range(len(hits))])
            ranks = TaskItems(
                task=TASK,
                outcomes=torch.from_numpy(1 - hits.astype(np.int64)),
                groups=torch.arange(len(hits)),
                texts=names,
            )
            cosines = replace(ranks, task=COSINE, outcomes=torch.full((len(hits),), 0.25, dtype=torch.float64))
            write_items(folder / "items.parquet", [ranks, cosines], "0" * 12)
        if source is not None:
            record = DataRecord(
                sources={"contrastive": {"pairs": source}}, evaluation={"retrieval.unseen_design": (evaluation,)}
            )
            (folder / "data.json").write_text(record.to_json(), encoding="utf-8")
        return folder

    return write
