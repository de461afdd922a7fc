"""Power and detectable differences: against simulation from their own assumptions and normal formulas."""

import numpy as np
import pytest
from scipy import stats

from kelip_lightning.statistics.power import detectable_difference, power_at
from kelip_lightning.statistics.significance import Estimate


def _estimate(error: float | None, degrees: float | None) -> Estimate:
    return Estimate(
        mean=0.0, low=None, high=None, p_value=None, num_seeds=3, num_items=10, error=error, degrees=degrees
    )


def test_power_at__of_a_known_variance_is_the_normal_one() -> None:
    power = power_at(_estimate(0.02, 1e6), 1, 0.05)
    assert power == pytest.approx(stats.norm.sf(1.959964 - 2.5), abs=1e-3)


def test_power_at__of_few_degrees_is_that_of_repetitions() -> None:
    generator = np.random.default_rng(0)
    error = 0.02 * np.sqrt(generator.chisquare(4, 100_000) / 4)
    t = generator.normal(0.06, 0.02, 100_000) / error
    assert power_at(_estimate(0.02, 4), 1, 0.06) == pytest.approx((t > stats.t.isf(0.025, 4)).mean(), abs=0.006)


def test_detectable_difference__is_found_in_80_percent_of_repetitions() -> None:
    estimate = _estimate(0.02, 20)
    size = detectable_difference(estimate, 4)
    assert size is not None
    generator = np.random.default_rng(1)
    draws = generator.normal(0, 1, (100_000, 5))
    scale = np.sqrt(generator.chisquare(20, 100_000) / 20)
    # Four comparisons that share a reference, of which one has the effect; the limit from the null distribution.
    t = (draws[:, 1:] - draws[:, :1]) / np.sqrt(2) / scale[:, None]
    limit = np.quantile(abs(t).max(axis=1), 0.95)
    assert (t[:, 0] + size / 0.02 / scale > limit).mean() == pytest.approx(0.8, abs=0.01)
    assert power_at(estimate, 4, size) == pytest.approx(0.8, abs=1e-6)


def test_detectable_difference__grows_with_comparisons_and_fewer_seeds() -> None:
    sizes = [
        detectable_difference(_estimate(0.02, degrees), comparisons)
        for degrees, comparisons in ((20, 1), (20, 9), (2, 9))
    ]
    assert all(one is not None for one in sizes)
    assert sizes == sorted(sizes, key=lambda one: one or 0.0)


def test_power__without_an_interval_is_unknown() -> None:
    assert detectable_difference(_estimate(None, None), 3) is None
    assert power_at(_estimate(None, None), 3, 0.1) is None
    assert power_at(_estimate(0.0, 4), 3, 0.1) is None
    assert detectable_difference(_estimate(0.0, 4), 3) == 0
