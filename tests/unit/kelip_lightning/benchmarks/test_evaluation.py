"""The evaluation benchmark: its sets, the memory of a process, and its report."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data_modules.benchmarks.evaluation_sets import build_evaluation_sets
from kelip_lightning.benchmarks import evaluation
from kelip_lightning.benchmarks.evaluation import (
    EvaluationCost,
    EvaluationSetting,
    RankOutcome,
    config_of,
    outcomes_of,
    peak_memory,
    private_memory,
    run_evaluation_benchmark,
    write_evaluation_report,
    write_folder,
)
from kelip_lightning.errors import BenchmarkError

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_write_folder__a_retrieval_set_with_five_captions_each(tmp_path: Path) -> None:
    write_folder(tmp_path / "captions", 3, with_captions=True)
    (found,) = build_evaluation_sets(config_of(tmp_path / "captions")).retrieval
    assert found.name == "captions"
    assert len(found.captions["en"]) == len(found.positives["en"]) == 15
    assert found.positives["en"][:, 0].bincount().tolist() == [5, 5, 5]


def test_write_folder__a_classification_set_of_a_hundred_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "classes", 101, with_captions=False)
    (found,) = build_evaluation_sets(config_of(tmp_path / "classes")).classification
    assert found.labels.tolist() == [*range(100), 0]


def test_outcomes_of__changes_with_any_outcome() -> None:
    def of(outcomes: list[int]) -> dict[str, int]:
        return outcomes_of(SimpleNamespace(items=[SimpleNamespace(task="t", outcomes=np.array(outcomes))]))  # type: ignore[arg-type]

    assert of([0, 1, 1]) == of([0, 1, 1])
    assert of([0, 1, 1]) != of([0, 1, 0])


@on_linux
def test_peak_memory__is_that_of_a_moment() -> None:
    before = private_memory()
    with peak_memory() as peak:
        held = np.ones(64 * 2**20, dtype=np.uint8)
        evaluation.time.sleep(0.4)  # sampled ten times a second
        del held
    assert 56 < peak[0] - before < 96


@on_linux
def test_run_evaluation_benchmark__slowest_rank_and_largest_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(world: int, folder: Path, name: str, width: int, depth: int, *, num_workers: int) -> list[RankOutcome]:
        assert (folder / name / "test" / "0.tar").is_file()
        assert (width, depth, num_workers) == ((12, 3, 0) if name == "timed" else (8, 1, 1))
        base = {"classes": 10.0, "captions": 20.0, "timed": 1.0}[name]
        return [
            RankOutcome(seconds=base + rank, mebibytes=10 * base + rank, outcomes={"t": 5}) for rank in range(world)
        ]

    monkeypatch.setattr(evaluation, "evaluate_on", pretend)
    setting = EvaluationSetting(pictures=100, queries=2, timed=100, width=8, timed_width=12, timed_depth=3)
    cost = run_evaluation_benchmark(setting, lambda _: None)
    assert cost == EvaluationCost(
        classification_mebibytes={1: 100.0, 2: 101.0},
        retrieval_mebibytes={1: 200.0, 2: 201.0},
        seconds={1: 1.0, 2: 2.0},
        same_outcomes=True,
    )


@on_linux
def test_run_evaluation_benchmark__sees_another_outcome_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(world: int, *_: Any, **__: Any) -> list[RankOutcome]:
        return [RankOutcome(seconds=1.0, mebibytes=1.0, outcomes={"t": rank}) for rank in range(world)]

    monkeypatch.setattr(evaluation, "evaluate_on", pretend)
    setting = EvaluationSetting(pictures=100, queries=1, timed=100)
    assert not run_evaluation_benchmark(setting, lambda _: None).same_outcomes


def test_run_evaluation_benchmark__needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.sys, "platform", "darwin")
    with pytest.raises(BenchmarkError, match="Linux"):
        run_evaluation_benchmark(EvaluationSetting(), lambda _: None)


def test_write_evaluation_report(tmp_path: Path) -> None:
    cost = EvaluationCost(
        classification_mebibytes={1: 3.0, 2: 4.0},
        retrieval_mebibytes={1: 5.0, 2: 6.0},
        seconds={1: 2.0, 2: 1.0},
        same_outcomes=True,
    )
    numbers, plot = write_evaluation_report(EvaluationSetting(), cost, tmp_path)
    written = json.loads(numbers.read_text(encoding="utf-8"))
    assert written["cost"]["retrieval_mebibytes"] == {"1": 5.0, "2": 6.0}
    assert written["setting"]["pictures"] == 50_000
    assert plot.stat().st_size > 1000


def test_evaluation_setting__needs_a_picture_of_each_class() -> None:
    with pytest.raises(ValueError, match="pictures = 99 must be at least 100"):
        EvaluationSetting(pictures=99)
