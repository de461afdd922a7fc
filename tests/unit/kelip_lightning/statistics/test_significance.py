"""The variance parts, the interval, the pooled seed part and the verdict: against formulas of variance analysis."""

import itertools
import math
import time

import numpy as np
import pytest
from scipy import stats

from kelip_lightning.statistics.significance import (
    Estimate,
    SeedSpread,
    Verdict,
    adjusted_p_values,
    estimate_mean,
    estimate_over_items,
    group_table,
    paired_difference,
    pooled_spread,
    variance_parts,
    verdict,
)


def _mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, items and residual, as residual sums of squares of least-squares fits with dummy variables."""
    seeds, items = table.shape
    values = table.ravel()
    by_seed = np.repeat(np.eye(seeds), items, axis=0)
    by_item = np.tile(np.eye(items), (seeds, 1))
    one = np.ones((seeds * items, 1))

    def left(*columns: np.ndarray) -> float:
        design = np.hstack(columns)
        return float(((values - design @ np.linalg.lstsq(design, values, rcond=None)[0]) ** 2).sum())

    both = left(by_seed, by_item)
    return (
        (left(one, by_item) - both) / (seeds - 1),
        (left(one, by_seed) - both) / (items - 1),
        both / ((seeds - 1) * (items - 1)),
    )


def _random_table(generator: np.random.Generator, seeds: int, items: int, spread: float = 0.4) -> np.ndarray:
    shape = generator.normal(0.3, 1, (seeds, items))
    return np.asarray(shape + generator.normal(0, spread, (seeds, 1)) + generator.normal(0, 0.7, (1, items)))


def test_variance_parts__are_the_mean_squares_of_the_two_way_analysis_of_variance() -> None:
    table = _random_table(np.random.default_rng(0), 4, 25)
    found = variance_parts(table)
    assert (found.seeds, found.items, found.residual) == pytest.approx([one / 100 for one in _mean_squares(table)])
    assert (found.num_seeds, found.num_groups) == (4, 25)
    many = variance_parts(np.stack([table, 2 * table]))
    assert many.residual == pytest.approx(np.array([1, 4]) * found.residual)


def test_variance_parts__sum_is_the_variance_of_the_mean_over_new_seeds_and_items() -> None:
    """Components 0.09, 0.25 and 1; the expectation of the estimate and the variance of the mean, both simulated."""
    generator, means, estimates = np.random.default_rng(1), [], []
    for _ in range(4000):
        table = generator.normal(0, 1, (4, 20)) + generator.normal(0, 0.3, (4, 1)) + generator.normal(0, 0.5, (1, 20))
        parts = variance_parts(table)
        means.append(table.mean())
        estimates.append(parts.seeds + parts.items - parts.residual)
    truth = 0.09 / 4 + 0.25 / 20 + 1 / 80
    assert np.mean(estimates) == pytest.approx(truth, rel=0.04)
    assert np.var(means) == pytest.approx(truth, rel=0.08)


def test_estimate_mean__interval_by_satterthwaites_formula() -> None:
    """With the upper 60 % limit of the seed part in the degrees of freedom."""
    table = _random_table(np.random.default_rng(2), 3, 50)
    seeds, items, residual = (one / 150 for one in _mean_squares(table))
    variance = seeds + items - residual
    assert variance > max(seeds, items)
    upper = seeds * 2 / stats.chi2.ppf(0.4, 2)
    degrees = (upper + items - residual) ** 2 / (upper**2 / 2 + items**2 / 49 + residual**2 / 98)
    test = stats.t(degrees, loc=table.mean(), scale=math.sqrt(variance))
    found = estimate_mean(table)
    assert (found.low, found.high) == pytest.approx(test.interval(0.95))
    assert found.p_value == pytest.approx(2 * min(test.cdf(0), test.sf(0)))
    assert (found.degrees, found.error) == pytest.approx((degrees, math.sqrt(variance)))
    assert (found.num_seeds, found.num_items) == (3, 50) and found.mean == pytest.approx(table.mean())


def test_estimate_mean__variance_is_at_least_the_larger_part() -> None:
    rows = np.array([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])  # residual alone, all item and seed means 0
    parts = variance_parts(rows)
    assert parts.seeds == 0 and parts.items == 0 and parts.residual > 0
    assert estimate_mean(rows).error == 0
    table = rows + np.array([[0.3], [-0.3]])
    assert estimate_mean(table).error == pytest.approx(math.sqrt(0.18 / 2))


def test_estimate_mean__of_one_item_is_the_t_interval_over_seeds() -> None:
    values = np.array([0.3, 0.5, 0.1, 0.45])
    test = stats.ttest_1samp(values, 0)
    found = estimate_mean(values[:, None])
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(test.pvalue)


@pytest.mark.parametrize("shift", [0.05, 0.3, 1.0])
def test_estimate_mean__p_value_is_the_level_at_which_the_interval_touches_zero(shift: float) -> None:
    outcomes = np.random.default_rng(2).normal(shift, 1.0, (4, 60))
    p_value = estimate_mean(outcomes).p_value
    assert p_value is not None
    touching = estimate_mean(outcomes, level=p_value)
    assert touching.low is not None and touching.high is not None
    assert min(abs(touching.low), abs(touching.high)) == pytest.approx(0, abs=1e-9)


def test_group_table__equal_groups_are_their_means() -> None:
    outcomes = np.random.default_rng(0).random((3, 40))
    shuffled = np.random.default_rng(1).permutation(np.repeat(np.arange(8), 5))
    expected = np.stack([outcomes[:, shuffled == group].mean(axis=1) for group in range(8)], axis=1)
    assert group_table(outcomes, shuffled) == pytest.approx(expected)
    assert estimate_mean(outcomes, shuffled).error == pytest.approx(estimate_mean(expected).error)


def test_group_table__of_unequal_groups_gives_the_cluster_robust_variance() -> None:
    outcomes, groups = np.random.default_rng(0).random((1, 60)), np.random.default_rng(1).integers(0, 12, 60)
    residuals = outcomes[0] - outcomes.mean()
    sums = np.array([residuals[groups == group].sum() for group in range(12)])
    robust = 12 / 11 * (sums**2).sum() / 60**2  # White's sandwich of a mean, with the small-sample factor G / (G - 1)
    found = estimate_over_items(outcomes, groups)
    assert found.error == pytest.approx(math.sqrt(robust))
    assert group_table(outcomes, groups).mean() == pytest.approx(outcomes.mean())


def test_estimate_mean__copies_of_items_add_nothing() -> None:
    outcomes = (np.random.default_rng(0).random((3, 40)) < 0.3).astype(float)
    copies, groups = np.repeat(outcomes, 10, axis=1), np.repeat(np.arange(40), 10)
    assert estimate_mean(copies, groups).error == pytest.approx(estimate_mean(outcomes).error)
    single, grouped = estimate_mean(copies).error, estimate_mean(copies, groups).error
    assert single is not None and grouped is not None and single < 0.7 * grouped


def test_pooled_spread__is_the_residual_of_the_two_way_analysis_of_variance() -> None:
    means = np.random.default_rng(0).normal(0, 1, (4, 3))
    spread = pooled_spread(means)
    assert spread is not None and spread.degrees == 6
    assert spread.variance == pytest.approx(_mean_squares(means)[2])
    assert pooled_spread(means[:1]) is None and pooled_spread(means[:, :1]) is None


def test_pooled_spread__of_two_runs_is_their_paired_t_test() -> None:
    outcomes = np.random.default_rng(4).normal(0, 1, (2, 3, 40))
    spread = pooled_spread(outcomes.mean(axis=2))
    assert paired_difference(outcomes[1], outcomes[0], spread=spread).high == pytest.approx(
        paired_difference(outcomes[1], outcomes[0]).high
    )


@pytest.mark.parametrize(("variance", "degrees"), [(0.04, 12), (0.01, 4), (10.0, 12)])
def test_paired_difference__seed_part_by_formula(variance: float, degrees: int) -> None:
    """Pooled, and raised by 1.25 of its own excess in the share that seeds can have in it."""
    difference = _random_table(np.random.default_rng(3), 3, 40, spread=0.8)
    own, items, residual = (one / 120 for one in _mean_squares(difference))
    pooled = 2 * variance / 3
    share = max(0.0, 1 - residual / (pooled * degrees / stats.chi2.ppf(0.1, degrees)))
    seeds = pooled + 1.25 * share * max(0.0, own - pooled)
    assert bool(seeds > pooled) is (variance < 10)
    total = max(seeds + items - residual, seeds, items)
    upper = seeds * degrees / stats.chi2.ppf(0.4, degrees)
    sure = max(upper + items - residual, upper, items)
    freedom = sure**2 / (upper**2 / degrees + items**2 / 39 + residual**2 / 78)
    zero = np.zeros_like(difference)
    found = paired_difference(difference, zero, spread=SeedSpread(variance=variance, degrees=degrees))
    assert (found.error, found.degrees) == pytest.approx((math.sqrt(total), freedom))


def test_paired_difference__chance_of_the_items_does_not_raise_the_pooled_part() -> None:
    generator = np.random.default_rng(3)
    noise = generator.normal(0, 1, (3, 40))
    noise[0] += 0.5 - noise[0].mean()  # seed means that differ by more than the pooled spread
    tiny = SeedSpread(variance=1e-4, degrees=100)
    parts = variance_parts(noise)
    assert parts.seeds > 10 * 2e-4 / 3
    found = paired_difference(noise, np.zeros_like(noise), spread=tiny)
    # The residual explains all of the pooled part, so the item part alone is left.
    assert found.error == pytest.approx(math.sqrt(max(float(parts.items), 2e-4 / 3)))


def test_estimate_mean__one_seed_has_no_interval() -> None:
    found = estimate_mean(np.ones((1, 5)))
    assert (found.mean, found.low, found.high, found.p_value, found.statistic) == (1.0, None, None, None, None)
    assert verdict(found, None) is Verdict.inconclusive


def test_estimate_mean__equal_runs_and_certain_differences() -> None:
    hits = (np.random.default_rng(0).random((3, 20)) < 0.5).astype(float)
    equal, certain = paired_difference(hits, hits), paired_difference(np.ones((3, 20)), np.zeros((3, 20)))
    assert (equal.p_value, certain.p_value) == (1.0, 0.0)
    assert adjusted_p_values([equal, certain]) == [1.0, 0.0]


def test_paired_difference__refuses_other_items() -> None:
    with pytest.raises(ValueError, match="the same seeds and items"):
        paired_difference(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="at least one of each"):
        estimate_mean(np.ones((2, 0)))
    with pytest.raises(ValueError, match="at least one of each"):
        estimate_over_items(np.ones((0, 3)))


def test_verdict__by_sign_and_corrected_p_value() -> None:
    up = Estimate(mean=0.1, low=0.05, high=0.15, p_value=0.01, num_seeds=3, num_items=9)
    down = Estimate(mean=-0.1, low=-0.15, high=-0.05, p_value=0.01, num_seeds=3, num_items=9)
    assert verdict(up, 0.01) is Verdict.better
    assert verdict(down, 0.049) is Verdict.worse
    assert verdict(up, 0.05) is Verdict.inconclusive


def test_estimate_over_items__is_the_paired_t_test_of_one_run_each() -> None:
    generator = np.random.default_rng(3)
    before, after = ((generator.random((1, 500)) < rate).astype(float) for rate in (0.3, 0.4))
    found = estimate_over_items(after - before)
    test = stats.ttest_rel(after[0], before[0])
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(test.pvalue)
    assert estimate_over_items(np.ones((1, 4)), np.zeros(4, dtype=np.int64)).low is None


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


def test_rule__ten_variants_five_seeds_3000_items_take_no_time() -> None:
    hits = (np.random.default_rng(0).random((11, 5, 3000)) < 0.3).astype(float)
    groups = np.arange(3000) // 2
    start = time.process_time()
    spread = pooled_spread(hits.mean(axis=2))
    adjusted_p_values([paired_difference(one, hits[0], groups, spread) for one in hits[1:]])
    assert time.process_time() - start < 0.5
