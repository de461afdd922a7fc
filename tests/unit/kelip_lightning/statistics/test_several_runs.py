"""Intervals over runs: coverage on simulated studies, and values worked out by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from kelip_lightning.statistics.several_runs import interval_over_runs, share_interval


def covered(seed_sd: float, item_sd: float, num_runs: int, studies: int = 300) -> float:
    """Share of simulated studies whose interval holds the true mean, zero."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(studies):
        values = generator.normal(0, seed_sd, (num_runs, 1)) + generator.normal(0, item_sd, 60)
        values = values + generator.normal(0, 1.0, values.shape)
        picks = generator.integers(0, 60, (200, 60))
        interval = interval_over_runs(values.mean(axis=1), values[:, picks].mean(axis=2), 60)
        held += interval.low <= 0 <= interval.high
    return held / studies


@pytest.mark.parametrize(("seed_sd", "item_sd"), [(0.0, 1.0), (0.5, 0.2), (0.3, 1.0)])
def test_interval_over_runs__covers_the_mean_under_other_seeds_and_items(seed_sd: float, item_sd: float) -> None:
    # About 0.93 to 0.96; the standard error of a share of 300 studies is 0.015.
    assert covered(seed_sd, item_sd, num_runs=3) >= 0.90


def test_interval_over_runs__one_run_has_the_percentile_interval_of_its_resamples() -> None:
    interval = interval_over_runs([0.5], [np.linspace(0, 1, 1001)], 10)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.5, 0.025, 0.975))


def test_interval_over_runs__the_same_run_twice_is_no_more_than_one() -> None:
    draws = np.random.default_rng(1).normal(0, 1, 20_000)
    interval = interval_over_runs([0.0, 0.0], [draws, draws], 10_000)
    assert interval.high == pytest.approx(1.96, abs=0.05)


def test_interval_over_runs__seeds_alone_give_students_t() -> None:
    interval = interval_over_runs([1.0, 2.0, 3.0], [[one] * 50 for one in (1.0, 2.0, 3.0)], 50)
    assert interval.high - interval.value == pytest.approx(4.3027 / 3**0.5, rel=1e-3)


def test_interval_over_runs__shapes() -> None:
    with pytest.raises(ValueError, match="must be"):
        interval_over_runs([1.0, 2.0], [[1.0, 2.0]], 5)


@pytest.mark.parametrize("found", [0, 1, 19, 24])
def test_share_interval__is_the_exact_binomial_interval(found: int) -> None:
    interval = share_interval([place < found for place in range(24)], 24)
    exact = binomtest(found, 24).proportion_ci(method="exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high))


def test_share_interval__one_item_in_several_runs_counts_once() -> None:
    once, thrice = share_interval([True, False] * 10, 20), share_interval([True, False] * 30, 20)
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))
    with pytest.raises(ValueError, match="0 outcomes"):
        share_interval([], 0)
