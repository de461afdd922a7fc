"""Differences with intervals against formulas of numpy and scipy; when no verdict is given, and why."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from data_modules.config_roles import Role
from kelip_lightning.comparison.conditions import Objection
from kelip_lightning.comparison.results import ITEMS, ITEMS_AND_SEEDS, Comparison, MetricComparison, compare_groups
from kelip_lightning.comparison.runs import read_groups
from kelip_lightning.errors import RunFolderError
from tests.unit.kelip_lightning.comparison.conftest import COSINE, MEDIAN, METRIC, NUM_ITEMS, SET, SOURCE, WriteRun


def _hits(rate: float, seed: int, count: int = NUM_ITEMS) -> np.ndarray:
    return (np.random.default_rng([seed, round(1000 * rate)]).random(count) < rate).astype(float)


def _of(comparison: Comparison, metric: str = METRIC) -> MetricComparison:
    return next(one for one in comparison.metrics if one.metric == metric)


def _compared(**groups: list[Path]) -> Comparison:
    return compare_groups(read_groups(groups))


def test_compare_groups__means_and_deviations_are_those_of_numpy(write_run: WriteRun) -> None:
    rates = {"a": [0.2, 0.3, 0.4], "b": [0.6, 0.5, 0.8]}
    hits = {name: [_hits(rate, seed) for seed, rate in enumerate(one)] for name, one in rates.items()}
    groups = {
        name: [write_run(f"{name}-{seed}", one, seed=seed) for seed, one in enumerate(runs)]
        for name, runs in hits.items()
    }
    found = _of(_compared(**groups))
    means = {name: np.mean(runs, axis=1) for name, runs in hits.items()}
    for name, values in means.items():
        assert found.groups[name].mean == pytest.approx(values.mean())
        assert found.groups[name].deviation == pytest.approx(values.std(ddof=1))
    difference = found.differences["b"]
    assert difference.mean == pytest.approx((means["b"] - means["a"]).mean())
    assert difference.deviation == pytest.approx((means["b"] - means["a"]).std(ddof=1))
    assert (found.chance, found.num_items, difference.num_pairs) == (0.01, NUM_ITEMS, 3)
    # Two groups: the pooled variance over seeds is half of that of the differences, so the interval is that of the
    # two-way analysis of variance of the differences.
    assert difference.low is not None
    gains = np.array(hits["b"]) - np.array(hits["a"])
    rows, columns = gains.mean(axis=1), gains.mean(axis=0)
    residuals = gains - rows[:, None] - columns + gains.mean()
    seeds, items = rows.var(ddof=1) / 3, columns.var(ddof=1) / NUM_ITEMS
    residual = (residuals**2).sum() / (2 * (NUM_ITEMS - 1)) / (3 * NUM_ITEMS)
    variance = max(seeds + items - residual, seeds, items)
    upper = seeds * 2 / stats.chi2.ppf(0.4, 2)
    weights = upper**2 / 2 + items**2 / (NUM_ITEMS - 1) + residual**2 / (2 * (NUM_ITEMS - 1))
    degrees = max(upper + items - residual, upper, items) ** 2 / weights
    assert difference.mean - difference.low == pytest.approx(stats.t.isf(0.025, degrees) * np.sqrt(variance))
    assert difference.covers == ITEMS_AND_SEEDS


def test_compare_groups__one_run_each_covers_items_alone_and_says_so(write_run: WriteRun) -> None:
    a, b = _hits(0.2, 0, 400), _hits(0.5, 1, 400)
    comparison = _compared(a=[write_run("a", a)], b=[write_run("b", b)])
    difference = _of(comparison).differences["b"]
    sample = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((sample.low, sample.high))
    assert (difference.covers, difference.verdict) == (ITEMS, "better")
    assert any("do not cover the seed" in note for note in comparison.notes)


def test_compare_groups__runs_are_paired_by_seed_in_any_order(write_run: WriteRun) -> None:
    a = [write_run(f"a{seed}", _hits(0.3, seed), seed=seed) for seed in range(3)]
    b = [write_run(f"b{seed}", _hits(0.3, seed), seed=seed) for seed in range(3)]
    difference = _of(_compared(a=a, b=[b[2], b[0], b[1]])).differences["b"]
    assert (difference.mean, difference.deviation, difference.verdict) == (0, 0, "inconclusive")
    fewer = _compared(a=a, b=b[1:])
    assert _of(fewer).differences["b"].num_pairs == 2
    assert "seeds that both groups have: 1, 2" in fewer.notes[0]


def test_compare_groups__without_common_seeds(write_run: WriteRun) -> None:
    a = [write_run(f"a{seed}", _hits(0.3, seed), seed=seed) for seed in range(2)]
    b = [write_run(f"b{seed}", _hits(0.3, seed), seed=seed) for seed in (5, 6, 7)]
    comparison = _compared(a=a, b=b)
    assert _of(comparison).differences == {}
    assert "no seed in common" in comparison.notes[0]
    assert "paired in the given order" in _compared(a=a, b=b[:2]).notes[0]


def test_compare_groups__three_groups_are_corrected_together(write_run: WriteRun) -> None:
    groups = {
        name: [write_run(f"{name}{seed}", _hits(rate, seed), seed=seed) for seed in range(3)]
        for name, rate in {"a": 0.2, "b": 0.9, "c": 0.25}.items()
    }
    found = _of(_compared(**groups)).differences
    raw = {name: one.p_value or 0.0 for name, one in found.items()}
    assert raw["b"] < raw["c"]
    # Dunnett's correction for two comparisons with one reference: less than Holm's factor of 2.
    assert raw["b"] < (found["b"].adjusted_p_value or 0.0) < 2 * raw["b"]
    assert (found["b"].verdict, found["c"].verdict) == ("better", "inconclusive")


def test_compare_groups__ranks_have_no_interval_and_cosines_do(write_run: WriteRun) -> None:
    groups = {name: [write_run(f"{name}{s}", _hits(0.2, s), seed=s) for s in range(2)] for name in "ab"}
    comparison = _compared(**groups)
    median, cosine = _of(comparison, MEDIAN), _of(comparison, COSINE)
    assert (median.groups["a"].mean, median.num_items, median.differences["b"].verdict) == (3.5, None, None)
    assert (cosine.groups["a"].mean, cosine.differences["b"].covers) == (0.25, ITEMS_AND_SEEDS)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"source": replace(SOURCE, num_samples=50)}, r"other data than .* \(contrastive: source 'pairs': 50 pairs"),
        ({"source": None}, "no data.json, so what data it was trained on is unknown"),
        ({"overrides": ["schedule.max_steps=1600"]}, r"409,600 samples \(1,600 steps\) .* 204,800 \(800 steps\)"),
        (
            {"overrides": ["data.global_batch_size=128"]},
            r"102,400 samples \(800 steps\).* 204,800 \(800 steps\)",
        ),
        ({"evaluation": replace(SET, digest="t")}, r"another set retrieval\.unseen_design"),
        ({"texts": [f"배 {n}" for n in range(NUM_ITEMS)]}, "the stored items differ"),
        ({"has_items": False}, r"no items\.parquet"),
        ({"overrides": ["evaluation.retrieval.unseen_design.tie_rule=topk"]}, "its settings differ"),
    ],
)
def test_compare_groups__no_verdict(changed: dict[str, object], reason: str, write_run: WriteRun) -> None:
    overrides = [str(one) for one in changed.pop("overrides", [])]  # type: ignore[attr-defined]
    runs = {
        "a": [write_run(f"a{s}", _hits(0.1, s), seed=s) for s in range(3)],
        "b": [write_run(f"b{s}", _hits(0.9, s), *overrides, seed=s, **changed) for s in range(3)],
    }
    same = {"a": runs["a"], "b": [write_run(f"c{s}", _hits(0.9, s), seed=s) for s in range(3)]}
    assert _of(_compared(**same)).differences["b"].verdict == "better"
    difference = _of(_compared(**runs)).differences["b"]
    assert difference.verdict is None
    assert difference.mean > 0.5
    assert re.search(reason, difference.objection or "")
    assert re.search(r", and 2 more of b likewise$", difference.objection or "")


def test_compare_groups__items_of_another_evaluation_than_the_report(write_run: WriteRun) -> None:
    runs = {name: [write_run(name, _hits(rate, 0))] for name, rate in {"a": 0.1, "b": 0.9}.items()}
    report = runs["b"][0] / "report.json"
    values = json.loads(report.read_text(encoding="utf-8"))
    values["metrics"][METRIC] -= 0.1
    report.write_text(json.dumps(values), encoding="utf-8")
    comparison = _compared(**runs)
    difference = _of(comparison).differences["b"]
    assert (difference.low, difference.verdict) == (None, None)
    reason = f"items.parquet of {runs['b'][0]} does not give the value of its report.json"
    assert difference.objection == reason
    assert comparison.objections == [Objection(reason=reason, data_set="unseen_design")]


def test_compare_groups__another_evaluation_set_concerns_its_metrics_alone(write_run: WriteRun) -> None:
    other = "evaluation.retrieval.unseen_design.tie_rule=topk"
    comparison = _compared(a=[write_run("a", _hits(0.1, 0))], b=[write_run("b", _hits(0.9, 0), other)])
    assert [one.data_set for one in comparison.objections] == ["unseen_design"]
    assert _of(comparison, METRIC).differences["b"].verdict is None
    assert _of(comparison, COSINE).differences["b"].verdict == "inconclusive"


def test_compare_groups__groups_of_other_settings_than_seeds(write_run: WriteRun) -> None:
    mixed = [write_run("a0", _hits(0.1, 0)), write_run("a1", _hits(0.1, 1), "optimizer.weight_decay=0.01", seed=1)]
    twice = [write_run(f"b{n}", _hits(0.9, n), seed=0) for n in range(2)]
    reasons = [one.reason for one in _compared(a=mixed, b=twice).objections]
    assert reasons[0].startswith("the runs of a differ in more than the seed (contrastive.optimizer.weight_decay)")
    assert "b has two runs with the same seed" in reasons[1]


def test_compare_groups__settings_by_role(write_run: WriteRun) -> None:
    changes = ["optimizer.weight_decay=0.01", "data.num_workers=3", "evaluation.every_n_steps=50"]
    groups = {
        "a": [write_run(f"a{s}", _hits(0.1, s), seed=s) for s in range(2)],
        "b": [write_run(f"b{s}", _hits(0.9, s), *changes, seed=s) for s in range(2)],
    }
    comparison = _compared(**groups)
    between = {one.key: (one.role, one.values["b"]) for one in comparison.between}
    assert between == {
        "contrastive.optimizer.weight_decay": (Role.identity, ["0.01"]),
        "contrastive.data.num_workers": (Role.performance, ["3"]),
        "contrastive.evaluation.every_n_steps": (Role.reporting, ["50"]),
    }
    assert [(one.key, one.values) for one in comparison.within["a"]] == [("contrastive.seed", {"a": ["0", "1"]})]
    assert comparison.objections == []


def test_read_groups__refuses_a_run_that_stands_twice(write_run: WriteRun) -> None:
    run = write_run("a", _hits(0.1, 0))
    with pytest.raises(RunFolderError, match="stands twice, in a and in b"):
        read_groups({"a": [run], "b": [run]})
    with pytest.raises(RunFolderError, match="stands twice, in a;"):
        read_groups({"a": [run, run]})


def test_read_groups__names_what_is_missing(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"unfinished has no report\.json: give the folder of a finished run"):
        read_groups({"a": [tmp_path / "unfinished"]})
    run = write_run("a", _hits(0.1, 0))
    (run / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"report\.json is damaged"):
        read_groups({"a": [run]})
