"""Claims: their items, their correction, their verdicts and the power at the stated difference."""

from collections.abc import Mapping

import numpy as np
import pytest

from kelip_lightning.ablations.claims import decide_claims
from kelip_lightning.ablations.config import ClaimConfig, Direction
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.multiplicity import critical_value, dunnett
from kelip_lightning.statistics.significance import paired_difference, pooled_spread

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
    found = decide_claims(runs, {"a": _claim(variants=["up", "same"], smallest=20.0)}, ["up", "down", "same"])
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
    found = decide_claims(_runs(), {"a": _claim(direction)}, ["up", "down", "same"])
    assert {one.variant: one.verdict for one in found} == verdicts
    assert {one.power for one in found} == {None}


def test_decide_claims__both_languages_of_a_concept_are_one_group() -> None:
    runs = _runs()
    together = decide_claims(runs, {"a": _claim(variants=["up"])}, [])[0]
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
    single = decide_claims(apart, {"a": _claim(variants=["up"])}, [])[0]
    assert together.difference == single.difference
    widths = [(one.difference_high or 0.0) - (one.difference_low or 0.0) for one in (together, single)]
    assert widths[0] > 1.01 * widths[1]


def test_decide_claims__a_variant_that_has_not_run() -> None:
    runs = _runs()
    del runs["down"]
    for seed in (1, 2):
        del runs["same"][seed]
    found = {one.variant: one for one in decide_claims(runs, {"a": _claim(smallest=3.0)}, ["up", "down", "same"])}
    assert (found["down"].verdict, found["down"].difference, found["down"].power) == (None, None, None)
    assert (found["same"].verdict, found["same"].difference_low) == ("inconclusive", None)
    assert found["up"].adjusted_p_value == found["up"].p_value  # the only comparison
