"""Claims: their items, their correction, their verdicts and the power at the stated difference."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from kelip_lightning.ablations.claims import ClaimResult, decide_claims
from kelip_lightning.ablations.config import ClaimConfig, Direction
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.multiplicity import critical_value, dunnett
from kelip_lightning.statistics.significance import SeedSpread, paired_difference, pooled_spread

KO, EN = "eval/set_ko/image_to_text", "eval/set_en/image_to_text"
RATES = {"base": 0.3, "up": 0.5, "down": 0.15, "same": 0.3}
Runs = dict[str, dict[int, dict[str, StoredItems]]]


def _items(rate: float, seed: int) -> dict[str, StoredItems]:
    """Sixty concepts, each in both languages, with the same outcome in half of them."""
    first, second, same = np.random.default_rng([round(100 * rate), seed]).random((3, 60))
    other = np.where(same < 0.5, first, second)
    return {
        task: StoredItems(outcomes=(draw >= rate) * 3, groups=np.arange(60), texts=["배"] * 60)
        for task, draw in ((KO, first), (EN, other))
    }


def _runs() -> Runs:
    return {
        name: {seed: _items(rate, seed + 7 * (name == "same")) for seed in range(3)} for name, rate in RATES.items()
    }


def _claim(direction: Direction = Direction.higher, **changes: object) -> ClaimConfig:
    values: dict[str, object] = {"text": "It helps.", "metrics": [f"{KO}_R@1", f"{EN}_R@1"], "direction": direction}
    return ClaimConfig(**(values | changes))  # type: ignore[arg-type]


def _decide(runs: Runs, claim: ClaimConfig, compared: list[str], **categories: Any) -> list[ClaimResult]:
    return decide_claims(runs, {"a": claim}, compared, categories)


def _hits(runs: Mapping[str, Mapping[int, Mapping[str, StoredItems]]], name: str) -> np.ndarray:
    return np.array(
        [np.concatenate([one[KO].outcomes < 1, one[EN].outcomes < 1]) for one in runs[name].values()], float
    )


def test_decide_claims__is_the_rule_over_the_items_of_all_metrics() -> None:
    runs = _runs()
    hits, groups = {name: _hits(runs, name) for name in runs}, np.tile(np.arange(60), 2)
    spread = pooled_spread(np.array([one.mean(axis=1) for one in hits.values()]))
    both = [paired_difference(hits[name], hits["base"], groups, spread) for name in ("up", "same")]
    adjusted = dunnett([one.mean / (one.error or 0.0) for one in both], [one.degrees for one in both])
    found = _decide(runs, _claim(variants=["up", "same"], smallest=20.0), ["up", "down", "same"])
    assert [(one.variant, one.num_items, one.num_seeds) for one in found] == [("up", 120, 3), ("same", 120, 3)]
    for one, difference, p in zip(found, both, adjusted, strict=True):
        assert (one.difference, one.difference_low, one.difference_high) == (
            difference.mean,
            difference.low,
            difference.high,
        )
        assert one.adjusted_p_value == p
        assert one.smallest == pytest.approx(0.2)  # points to shares
        assert difference.error is not None and difference.degrees is not None
        noise = np.random.default_rng(0).normal(0.2 / difference.error, 1, 50_000)
        scale = np.sqrt(np.random.default_rng(1).chisquare(difference.degrees, 50_000) / difference.degrees)
        limit = critical_value(0.05, difference.degrees, 2)
        assert one.power == pytest.approx((noise / scale > limit).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("direction", "verdicts"),
    [
        (Direction.higher, {"up": "confirmed", "down": "contradicted", "same": "inconclusive"}),
        (Direction.lower, {"up": "contradicted", "down": "confirmed", "same": "inconclusive"}),
    ],
)
def test_decide_claims__words_by_direction(direction: Direction, verdicts: dict[str, str]) -> None:
    found = _decide(_runs(), _claim(direction), ["up", "down", "same"])
    assert {one.variant: one.verdict for one in found} == verdicts
    assert {one.power for one in found} == {None}


def test_decide_claims__both_languages_of_a_concept_are_one_group() -> None:
    runs = _runs()
    together = _decide(runs, _claim(variants=["up"]), [])[0]
    apart = {
        name: {
            seed: {
                task: StoredItems(outcomes=one.outcomes, groups=one.groups + 60 * (task == EN), texts=one.texts)
                for task, one in items.items()
            }
            for seed, items in by_seed.items()
        }
        for name, by_seed in runs.items()
    }
    single = _decide(apart, _claim(variants=["up"]), [])[0]
    assert together.difference == single.difference
    widths = [(one.difference_high or 0.0) - (one.difference_low or 0.0) for one in (together, single)]
    assert widths[0] > 1.01 * widths[1]


def test_decide_claims__a_variant_that_has_not_run() -> None:
    runs = _runs()
    del runs["down"]
    for seed in (1, 2):
        del runs["same"][seed]
    found = {one.variant: one for one in _decide(runs, _claim(smallest=3.0), ["up", "down", "same"])}
    assert (found["down"].verdict, found["down"].difference, found["down"].power) == (None, None, None)
    assert (found["same"].verdict, found["same"].difference_low) == ("inconclusive", None)
    assert found["up"].adjusted_p_value == found["up"].p_value  # the only comparison


def test_decide_claims__variants_together_are_compared_by_their_mean() -> None:
    runs = _runs()
    hits, groups = {name: _hits(runs, name) for name in runs}, np.tile(np.arange(60), 2)
    pooled = pooled_spread(np.array([one.mean(axis=1) for one in hits.values()]))
    assert pooled is not None
    # Of a mean of two runs and one run: v / 2 + v, and `paired_difference` expects that of two runs, 2 v.
    spread = SeedSpread(variance=pooled.variance * 1.5 / 2, degrees=pooled.degrees)
    expected = paired_difference((hits["up"] + hits["same"]) / 2, hits["base"], groups, spread)
    (found,) = _decide(runs, _claim(variants=["up", "same"], together=True), ["up", "down", "same"])
    assert (found.variant, found.num_items, found.num_seeds) == ("up + same", 120, 3)
    assert (found.difference, found.difference_low) == pytest.approx((expected.mean, expected.low), abs=1e-12)
    assert found.adjusted_p_value == found.p_value == pytest.approx(expected.p_value, abs=1e-12)
    del runs["same"][1]
    (fewer,) = _decide(runs, _claim(variants=["up", "same"], together=True), ["up", "down", "same"])
    assert fewer.num_seeds == 2, "seeds that all of them have"
    del runs["same"]
    (none,) = _decide(runs, _claim(variants=["up", "same"], together=True), ["up", "down", "same"])
    assert (none.variant, none.verdict) == ("up + same", None)


@pytest.mark.filterwarnings("error")
def test_decide_claims__a_category_counts_its_captions_alone() -> None:
    runs = _runs()
    texts = {
        KO: ["빨간 배" if n < 20 else "배" for n in range(60)],
        EN: ["a red pear" if n < 30 else "reddish" for n in range(60)],
    }
    worded: Runs = {
        name: {
            seed: {
                task: StoredItems(outcomes=one.outcomes, groups=one.groups, texts=texts[task])
                for task, one in items.items()
            }
            for seed, items in by_seed.items()
        }
        for name, by_seed in runs.items()
    }
    words = {"ko": ["빨간"], "en": ["red"]}
    (found,) = _decide(worded, _claim(variants=["up"], category="colour"), [], colour=words)
    hits = {name: np.concatenate([_hits(runs, name)[:, :20], _hits(runs, name)[:, 60:90]], axis=1) for name in RATES}
    assert (found.category, found.num_items) == ("colour", 50)
    assert found.difference == pytest.approx((hits["up"] - hits["base"]).mean(), abs=1e-12)
    (none,) = _decide(worded, _claim(variants=["up"], category="colour"), [], colour={"ko": ["파란"]})
    assert (none.verdict, none.num_items) == (None, None), "no caption of that kind"


def test_decide_claims__a_group_of_variants_without_effect_is_rarely_found() -> None:
    """Five runs with the reference's rate, each seed's own spread: at most 5 %, and the interval is not idle."""
    generator, false, count = np.random.default_rng(5), 0, 400
    for _ in range(count):
        difficulty = generator.beta(3, 7, 100)
        runs: Runs = {}
        for name in ("base", *(f"v{n}" for n in range(5))):
            runs[name] = {}
            for seed in range(3):
                rate = np.clip(difficulty + generator.normal(0, 0.02), 0, 1)
                draws = {task: generator.random(100) >= rate for task in (KO, EN)}
                runs[name][seed] = {
                    task: StoredItems(outcomes=draw * 3, groups=np.arange(100), texts=["배"] * 100)
                    for task, draw in draws.items()
                }
        (found,) = _decide(runs, _claim(together=True), [f"v{n}" for n in range(5)])
        false += found.verdict != "inconclusive"
    # A standard error of 1.1 % at 5 %.
    assert 0.005 <= false / count <= 0.05 + 2 * 0.011
