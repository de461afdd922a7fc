"""Studies with simulated runs instead of trained ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kelip_lightning.ablations.pool import find_folder, record_seconds
from kelip_lightning.ablations.study import Choice, PlannedRun, Study, contrastive_of, open_study
from kelip_lightning.config.fingerprint import evaluation_fingerprint
from kelip_lightning.evaluation.suite import TaskItems
from kelip_lightning.runs.items import write_items
from tests.paths import ROOT

TASK = "eval/unseen_design_ko/image_to_text"
METRIC = f"{TASK}_R@1"
STUDY: dict[str, Any] = {
    "question": "Is <b> better than & c?",
    "paper": "Its numbers are not known.",
    "reference": "plain",
    "variants": {
        "plain": {"about": "the base"},
        "longer": {"about": "twice the steps", "overrides": ["contrastive.schedule.max_steps=1600"]},
        "warm": {"about": "less weight decay", "overrides": ["contrastive.optimizer.weight_decay=0.01"]},
    },
    "scales": {
        "emoji": {
            "base": str(ROOT / "experiments" / "emoji" / "pretrain.yaml"),
            "settings": ["mae=null"],
            "metrics": [METRIC],
        }
    },
    "categories": {"colour": {"ko": ["빨간"], "en": ["red"]}, "nothing": {"ko": ["없는 말"]}},
}
TEXTS = [f"빨간 사과 {n}" if n % 4 == 0 else f"초록 배 {n}" for n in range(120)]


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    file = tmp_path / "which.yaml"
    file.write_text(yaml.safe_dump(STUDY, allow_unicode=True), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Study:
    file = tmp_path_factory.mktemp("study") / "which.yaml"
    file.write_text(yaml.safe_dump(STUDY, allow_unicode=True), encoding="utf-8")
    return open_study(file, Choice(), on_this_machine=False)


@pytest.fixture
def study(opened: Study, tmp_path: Path) -> Study:
    return replace(opened, output=tmp_path / "out")


Finish = Callable[..., None]


@pytest.fixture
def finish(study: Study) -> Finish:
    """Writes a run folder as if it had been trained, with this share of hits."""

    def write(run: PlannedRun, hit_rate: float, texts: list[str] = TEXTS) -> None:
        folder = find_folder(study.pool, run)
        folder.path.mkdir(parents=True)
        generator = np.random.default_rng([run.seed, round(100 * hit_rate)])
        ranks = torch.from_numpy((generator.random(len(texts)) >= hit_rate).astype(np.int64))
        items = TaskItems(task=TASK, outcomes=ranks, groups=torch.arange(len(texts)), texts=texts)
        write_items(folder.items, [items], evaluation_fingerprint(contrastive_of(run.experiment).evaluation))
        value = float((ranks < 1).double().mean())
        report = {"step": 1, "seconds": 1.0, "metrics": {METRIC: value}, "chance": {METRIC: 0.01}}
        folder.report.write_text(json.dumps(report), encoding="utf-8")
        steps = run.plan.stages["contrastive"].max_steps
        lines = [{"stage": "contrastive", "step": 0, METRIC: 0.02}, {"step": steps // 2, "contrastive/loss": 1.0}]
        lines += [{"stage": "contrastive", "step": steps, METRIC: value}]
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        environment = {"git": {"revision": "0123456789abcdef", "dirty": False}, "code": "fedcba987654"}
        folder.environment.write_text(json.dumps(environment), encoding="utf-8")
        folder.write_status("finished")
        record_seconds(folder, 100.0 + run.seed)

    return write
