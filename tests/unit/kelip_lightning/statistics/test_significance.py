"""The interval, the p-value, Holm's correction and the verdict: against tables, formulas and simulated studies."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from kelip_lightning.statistics.power import SimulatedStudy, detectable_difference, simulate
from kelip_lightning.statistics.significance import (
    Estimate,
    Verdict,
    estimate_mean,
    estimate_over_items,
    holm,
    item_variance,
    paired_difference,
    pooled_spread,
    verdict,
)


def test_item_variance__equals_the_variance_of_a_mean() -> None:
    outcomes = (np.random.default_rng(0).random(400) < 0.3).astype(float)
    variance, groups = item_variance(outcomes)
    assert groups == 400
    assert variance == pytest.approx(outcomes.var(ddof=1) / 400, rel=0.1)


def test_item_variance__groups_are_resampled_whole() -> None:
    outcomes = (np.random.default_rng(0).random(40) < 0.3).astype(float)
    copies = np.repeat(outcomes, 10)
    variance, groups = item_variance(copies, np.repeat(np.arange(40), 10))
    assert groups == 40
    assert variance == pytest.approx(item_variance(outcomes)[0])
    assert item_variance(copies)[0] < variance / 5


def test_estimate_mean__half_width_by_formula() -> None:
    outcomes = np.random.default_rng(1).normal(0.5, 1.0, (3, 50)) + np.array([[0.0], [0.3], [-0.2]])
    seeds = np.var([row.mean() for row in outcomes], ddof=1) / 3
    items = item_variance(outcomes.mean(axis=0))[0]
    half = math.sqrt(4.302653**2 * seeds + 2.009575**2 * items)
    found = estimate_mean(outcomes)
    assert found.mean == pytest.approx(outcomes.mean())
    assert (found.low, found.high) == pytest.approx((outcomes.mean() - half, outcomes.mean() + half), abs=1e-6)
    assert (found.num_seeds, found.num_items) == (3, 50)


@pytest.mark.parametrize("shift", [0.05, 0.3, 1.0, 4.0])
def test_estimate_mean__p_value_is_the_level_at_which_the_interval_touches_zero(shift: float) -> None:
    outcomes = np.random.default_rng(2).normal(shift, 1.0, (4, 60))
    p_value = estimate_mean(outcomes).p_value
    assert p_value is not None
    touching = estimate_mean(outcomes, level=p_value)
    assert touching.low is not None and touching.high is not None
    assert min(abs(touching.low), abs(touching.high)) == pytest.approx(0, abs=1e-9)


def test_pooled_spread__is_the_residual_of_the_two_way_analysis_of_variance() -> None:
    means = np.random.default_rng(0).normal(0, 1, (4, 3))
    design = np.array([[v == a for a in range(4)] + [s == b for b in range(3)] for v in range(4) for s in range(3)])
    fit = np.linalg.lstsq(design.astype(float), means.ravel(), rcond=None)[0]
    spread = pooled_spread(means)
    assert spread is not None
    assert spread.degrees == 6
    assert spread.variance == pytest.approx(((means.ravel() - design @ fit) ** 2).sum() / 6)
    assert pooled_spread(means[:1]) is None and pooled_spread(means[:, :1]) is None


def test_pooled_spread__of_two_runs_is_their_paired_t_test() -> None:
    outcomes = np.random.default_rng(4).normal(0, 1, (2, 3, 40))
    spread = pooled_spread(outcomes.mean(axis=2))
    assert paired_difference(outcomes[1], outcomes[0], spread=spread).high == pytest.approx(
        paired_difference(outcomes[1], outcomes[0]).high
    )


def test_estimate_mean__uses_the_larger_spread() -> None:
    outcomes = np.random.default_rng(4).normal(0, 1, (3, 40))
    own = np.var(outcomes.mean(axis=1), ddof=1)
    small, large = (pooled_spread(np.array([[0.0, scale], [scale, 0.0]])) for scale in (1e-6, 10.0))
    assert small is not None and large is not None and small.degrees == 1
    items = item_variance(outcomes.mean(axis=0))[0]
    for spread, seeds in ((small, own / 3), (large, 2 * large.variance / 3)):
        half = math.sqrt(12.70620**2 * seeds + 2.022691**2 * items)
        high = estimate_mean(outcomes, spread=spread).high
        assert high == pytest.approx(outcomes.mean() + half, rel=1e-6)


def test_estimate_mean__one_seed_has_no_interval() -> None:
    found = estimate_mean(np.ones((1, 5)))
    assert (found.mean, found.low, found.high, found.p_value) == (1.0, None, None, None)
    assert verdict(found, None) is Verdict.inconclusive


def test_estimate_mean__equal_runs_and_certain_differences() -> None:
    hits = (np.random.default_rng(0).random((3, 20)) < 0.5).astype(float)
    assert paired_difference(hits, hits).p_value == 1.0
    assert paired_difference(np.ones((3, 20)), np.zeros((3, 20))).p_value == 0.0


def test_paired_difference__is_narrower_than_the_runs_own_intervals() -> None:
    generator = np.random.default_rng(0)
    difficulty = generator.random(500)
    base, better = ((generator.random((3, 500)) < difficulty + gain).astype(float) for gain in (0.0, 0.08))
    alone, paired = estimate_mean(base), paired_difference(better, base)
    assert alone.low is not None and alone.high is not None and paired.low is not None and paired.high is not None
    # Items differ much from one another, and alike in both runs.
    assert item_variance((better - base).mean(axis=0))[0] < 0.8 * item_variance(base.mean(axis=0))[0]


def test_paired_difference__refuses_other_items() -> None:
    with pytest.raises(ValueError, match="the same seeds and items"):
        paired_difference(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="at least one of each"):
        estimate_mean(np.ones((2, 0)))


def test_holm__worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm__rejects_what_step_down_testing_rejects() -> None:
    for values in itertools.product([0.004, 0.012, 0.02, 0.2], repeat=3):
        rejected, alive = set(), sorted(range(3), key=lambda i: values[i])
        for place, index in enumerate(alive):
            if values[index] >= 0.05 / (3 - place):
                break
            rejected.add(index)
        adjusted = holm(values)
        assert {i for i in range(3) if (adjusted[i] or 0.0) < 0.05} == rejected


def test_verdict__by_sign_and_corrected_p_value() -> None:
    up = Estimate(mean=0.1, low=0.05, high=0.15, p_value=0.01, num_seeds=3, num_items=9)
    down = Estimate(mean=-0.1, low=-0.15, high=-0.05, p_value=0.01, num_seeds=3, num_items=9)
    assert verdict(up, 0.01) is Verdict.better
    assert verdict(down, 0.049) is Verdict.worse
    assert verdict(up, 0.05) is Verdict.inconclusive


CASES = {
    "items alone": SimulatedStudy(num_items=150, seed_spread=0.0, item_spread=0.15),
    "seeds alone": SimulatedStudy(num_items=150, seed_spread=0.2, item_spread=0.0),
    "both": SimulatedStudy(num_items=150, seed_spread=0.03, item_spread=0.15),
    "twice the spread of one variant": SimulatedStudy(num_items=150, seed_spread=0.1, item_spread=0.0, last_spread=2.0),
    "two variants, five seeds": SimulatedStudy(num_variants=2, num_seeds=5, num_items=150, seed_spread=0.04),
}


@pytest.mark.parametrize("name", list(CASES))
def test_rule__names_a_false_winner_in_at_most_5_percent_of_1000_studies(name: str) -> None:
    assert simulate(CASES[name], num_studies=1000).false_winner <= 0.05


def test_rule__a_percentile_bootstrap_over_three_seeds_has_a_high_false_positive_rate() -> None:
    """The reason for the rule: the obvious one names a false winner far too often."""
    generator = np.random.default_rng(0)
    resamples = np.array(list(itertools.product(range(3), repeat=3)))
    wrong = 0
    for _ in range(1000):
        differences = generator.normal(0, 1, 3)
        low, high = np.quantile(differences[resamples].mean(axis=1), [0.025, 0.975])
        wrong += not low <= 0 <= high
    assert wrong > 150


def test_rule__power_grows_with_the_effect() -> None:
    powers = [
        simulate(SimulatedStudy(num_items=400, seed_spread=0.005, item_spread=0.05, effect=effect), 200).found
        for effect in (0.03, 0.08, 0.15)
    ]
    assert powers[0] < powers[1] < powers[2]
    assert powers[2] > 0.9


def test_estimate_over_items__is_the_paired_t_test_of_one_run_each() -> None:
    generator = np.random.default_rng(3)
    before, after = (generator.random((1, 500)) < rate for rate in (0.3, 0.4))
    found = estimate_over_items(after.astype(float) - before.astype(float))
    test = stats.ttest_rel(after[0].astype(float), before[0].astype(float))
    interval = test.confidence_interval(0.95)
    assert found.mean == pytest.approx(after.mean() - before.mean())
    # The standard error of the bootstrap's standard deviation is 2 %.
    assert (found.low, found.high) == pytest.approx(
        (interval.low, interval.high), abs=0.08 * (interval.high - interval.low)
    )
    assert found.p_value is not None
    assert stats.t.isf(found.p_value / 2, 499) == pytest.approx(test.statistic, rel=0.08)
    assert estimate_over_items(np.ones((1, 4)), np.zeros(4, dtype=np.int64)).low is None


def test_detectable_difference__is_found_in_80_percent_of_repetitions() -> None:
    variance, comparisons = 0.02**2, 4
    size = detectable_difference(_estimate_of(((variance, 10**6),)), comparisons)
    assert size == pytest.approx((stats.norm.isf(0.05 / 2 / comparisons) + stats.norm.ppf(0.8)) * 0.02, rel=1e-4)
    drawn = np.random.default_rng(0).normal(size, 0.02, 20_000)
    found = np.mean(2 * stats.norm.sf(drawn / 0.02) < 0.05 / comparisons)
    assert found == pytest.approx(0.8, abs=0.01)
    few_seeds = detectable_difference(_estimate_of(((variance, 4),)), comparisons)
    assert few_seeds is not None and few_seeds > size
    assert detectable_difference(_estimate_of(()), comparisons) is None


def _estimate_of(parts: tuple[tuple[float, int], ...]) -> Estimate:
    return Estimate(mean=0.0, low=None, high=None, p_value=None, num_seeds=3, num_items=10, parts=parts)
