"""Collecting a study: costs, equal compute, metrics files, and models that are evaluated again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kelip_lightning.ablations.collect import collect
from kelip_lightning.ablations.pool import find_folder
from kelip_lightning.ablations.study import Study, contrastive_of
from kelip_lightning.cli import main
from kelip_lightning.errors import RunFolderError
from kelip_lightning.evaluation.suite import TaskItems
from kelip_lightning.runs.folder import RunFolder

METRIC = "eval/unseen_design_ko/image_to_text_R@1"


def test_collect__costs_and_equal_compute(study: Study, finish: Callable[..., None]) -> None:
    for run in study.runs:
        finish(run, {"plain": 0.3, "longer": 0.8, "warm": 0.31}[run.variant])
    report = collect(study)
    costs = {one.variant: one for one in report.costs}
    equal = {variant: one for (_, variant), one in report.equal_compute.items()}
    means = {one.variant: one.mean for one in report.results if one.metric == METRIC and one.items == "all"}
    tokens = study.runs[0].plan.stages["contrastive"].tokens_forwarded
    assert (costs["plain"].tokens, costs["longer"].tokens) == (tokens, 2 * tokens)
    assert (costs["plain"].steps, costs["longer"].steps) == (800, 1600)
    assert costs["plain"].seconds == pytest.approx(101.0)  # 100, 101 and 102 s
    assert {one["equal_compute_tokens"] for one in equal.values()} == {tokens}
    # Half way on a straight line from the untrained model's 0.02.
    assert equal["longer"]["equal_compute"] == pytest.approx((0.02 + means["longer"]) / 2)
    assert equal["plain"]["equal_compute"] == pytest.approx(means["plain"])


def test_collect__share_of_the_time_in_steps(study: Study, finish: Callable[..., None]) -> None:
    for run in study.runs:
        finish(run, 0.5)
    plain = [run for run in study.runs if run.variant == "plain"]
    for run, seconds in zip(plain[:2], (60.0, 80.8), strict=True):
        session = {"began": "2026-01-01T00:00:00+0900", "seconds": {"imports": 5.0, "contrastive/steps": seconds}}
        find_folder(study.pool, run).timing.write_text(json.dumps({"sessions": [session]}), encoding="utf-8")
    report = collect(study)
    shares = {one.seed: one.steps_share for one in report.runs if one.variant == "plain"}
    assert shares == {0: pytest.approx(0.6), 1: pytest.approx(0.8), 2: None}  # of 100 and 101 s
    costs = {one.variant: one.steps_share for one in report.costs}
    assert costs["plain"] == pytest.approx(0.7)
    assert costs["longer"] is None


def test_collect__without_the_reference_there_is_nothing_to_compare(study: Study, finish: Callable[..., None]) -> None:
    finish(study.runs[-1], 0.5)
    with pytest.raises(RunFolderError, match="no run of the reference 'plain' has finished"):
        collect(study)


def test_collect__reads_metrics_with_line_separators_in_names_and_a_last_line_that_was_cut(
    study: Study, finish: Callable[..., None]
) -> None:
    finish(study.runs[0], 0.5)
    metrics = find_folder(study.pool, study.runs[0]).metrics
    before = collect(study).curves
    with metrics.open("a", encoding="utf-8") as file:
        file.write('{"stage": "contrastive", "step": 3, "eval/a\u2028b": 0.5}\n{"stage": "contr')
    assert collect(study).curves == before


@pytest.mark.parametrize(
    ("accelerator", "asked", "expected"),
    [("auto", "auto", "cuda"), ("gpu", "auto", "cuda"), ("cpu", "auto", "cpu"), ("cpu", "cuda:1", "cuda:1")],
)
def test_collect__evaluates_again_where_the_run_was_trained_or_where_it_is_asked_for(
    study: Study,
    finish: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    asked: str,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = study.runs[0]
    trainer = contrastive_of(run.experiment).trainer
    monkeypatch.setattr(trainer, "accelerator", accelerator)
    finish(run, 0.5)
    items = find_folder(study.pool, run).items
    items.unlink()  # as if the run had known other sets
    devices: list[str] = []

    def items_of_run(_: RunFolder, __: Any, device: torch.device) -> list[TaskItems]:
        devices.append(str(device))
        ranks, texts = torch.zeros(8, dtype=torch.int64), [f"사과 {n}" for n in range(8)]
        return [TaskItems(task=METRIC.removesuffix("_R@1"), outcomes=ranks, groups=torch.arange(8), texts=texts)]

    monkeypatch.setattr("kelip_lightning.ablations.collect.items_of_run", items_of_run)
    collect(study, device=asked)
    assert devices == [expected]


def test_ablate__a_wrong_device_is_refused_before_any_run(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["ablate", str(study_file), "--output", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "kelip: --device cuda: torch sees no GPU here; use auto or cpu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
