"""Intervals against formulas, their coverage, pairing, clusters and strata."""

import numpy as np
import pytest

from kelip_lightning.statistics.bootstrap import Bootstrap, Interval, interval_of


def test_mean__as_wide_as_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = Bootstrap(seed=1, num_resamples=4000).mean(values)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_mean__depends_on_the_seed() -> None:
    values = np.arange(50.0)
    assert Bootstrap(seed=1).mean(values) == Bootstrap(seed=1).mean(values)
    assert Bootstrap(seed=1).mean(values) != Bootstrap(seed=2).mean(values)


def test_mean__covers_the_truth_at_about_its_nominal_rate() -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(400):
        interval = Bootstrap(seed=trial, num_resamples=400).mean(generator.normal(0.0, 1.0, 60))
        hits += interval.low <= 0.0 <= interval.high
    assert 0.90 <= hits / 400 <= 0.98


def test_difference__pairing_removes_shared_variance() -> None:
    generator = np.random.default_rng(3)
    shared, bootstrap = generator.normal(0.0, 10.0, 200), Bootstrap()
    first, second = shared + 0.5 + generator.normal(0.0, 0.1, 200), shared
    assert bootstrap.difference(first, second).verdict == "above"
    assert bootstrap.difference(second, first).verdict == "below"
    assert bootstrap.unpaired_difference(first, second).verdict == "inconclusive"


def test_mean__clusters_of_copies_count_once() -> None:
    once = np.random.default_rng(4).normal(0.0, 1.0, 100)
    copies, names = np.repeat(once, 9), [str(number) for number in range(100) for _ in range(9)]
    bootstrap = Bootstrap(num_resamples=4000)

    def width(interval: Interval) -> float:
        return interval.high - interval.low

    assert width(bootstrap.mean(copies, names)) == pytest.approx(width(bootstrap.mean(once)), rel=0.05)
    assert width(bootstrap.mean(copies)) == pytest.approx(width(bootstrap.mean(once)) / 3, rel=0.05)


def test_mean_of_strata__weights_strata_equally() -> None:
    interval = Bootstrap().mean_of_strata([np.ones(1000), np.zeros(10)])
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_distance_of_means__bias_is_subtracted() -> None:
    generator, bootstrap = np.random.default_rng(5), Bootstrap(num_resamples=500)
    first, second = generator.normal(0.0, 1.0, (80, 64)), generator.normal(0.0, 1.0, (80, 64))
    alike = bootstrap.distance_of_means(first, second)
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > 1.0  # what noise alone makes of equal means
    assert alike.low == 0.0
    assert alike.value < 0.8
    apart = bootstrap.distance_of_means(first + 1.0, second)  # the true distance: sqrt(64)
    assert apart.low < 8.0 < apart.high
    assert apart.low < apart.value < apart.high


def test_length_of_mean__of_equal_rows() -> None:
    interval = Bootstrap().length_of_mean(np.tile([3.0, 4.0], (10, 1)))
    assert interval == Interval(value=5.0, low=5.0, high=5.0)


def test_interval_of__percentiles() -> None:
    interval = interval_of(0.5, np.linspace(0.0, 1.0, 1001))
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.5, 0.025, 0.975))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bootstrap().mean([]), "at least one value"),
        (lambda: Bootstrap().mean([[1.0]]), "a vector of values"),
        (lambda: Bootstrap().mean([1.0, 2.0], ["a"]), "as many cluster names"),
    ],
)
def test_bootstrap__invalid_input(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
