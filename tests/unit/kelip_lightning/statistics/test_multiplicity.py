"""Holm's and Dunnett's corrections: against worked examples, scipy's integration by random points, and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from kelip_lightning.statistics.multiplicity import critical_value, dunnett, dunnett_p, holm


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


@pytest.mark.parametrize("degrees", [1.0, 2.0, 4.5, 20.0, 1e6])
def test_dunnett_p__of_one_comparison_is_students(degrees: float) -> None:
    t = np.array([0.1, 1.0, -2.5, 8.0])
    assert dunnett_p(t, np.full(4, degrees), 1) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("comparisons", "degrees"), [(2, 4), (5, 3), (5, 20), (10, 20)])
def test_dunnett_p__is_the_multivariate_t_of_scipy(comparisons: int, degrees: int) -> None:
    shape = np.full((comparisons, comparisons), 0.5) + 0.5 * np.eye(comparisons)
    for t in (0.7, 2.0, 3.0):
        corner = np.full(comparisons, t)
        inside = stats.multivariate_t.cdf(
            corner, shape=shape, df=degrees, lower_limit=-corner, maxpts=100_000, random_state=1
        )
        assert dunnett_p(np.array([t]), np.array([degrees]), comparisons)[0] == pytest.approx(1 - inside, abs=5e-5)


def test_dunnett__first_step_is_that_of_scipy_and_the_last_is_students() -> None:
    generator = np.random.default_rng(0)
    reference, *groups = (generator.normal(shift, 1, 8) for shift in (0, 0.3, 1.2, 0.6))
    test = stats.dunnett(*groups, control=reference, rng=np.random.default_rng(0))
    degrees = 4 * 7
    found = dunnett(test.statistic.tolist(), [degrees] * 3)
    order = np.argsort(-abs(test.statistic))
    assert found[order[0]] == pytest.approx(test.pvalue[order[0]], abs=1e-3)
    single = 2 * stats.t.sf(abs(test.statistic[order[2]]), degrees)
    assert found[order[2]] == pytest.approx(max(single, found[order[1]] or 0.0), abs=1e-6)
    assert all((one or 0.0) <= p + 1e-3 for one, p in zip(found, test.pvalue, strict=True))


def test_critical_value__is_that_of_the_printed_tables() -> None:
    """Dunnett 1964 (Biometrics 20, 482), table II: two-sided, joint confidence 95 %."""
    printed = {(1, 20): 2.09, (2, 20): 2.38, (3, 20): 2.54, (5, 20): 2.73, (9, 20): 2.95, (2, 5): 3.03, (5, 10): 2.99}
    for (comparisons, degrees), value in printed.items():
        assert critical_value(0.05, degrees, comparisons) == pytest.approx(value, abs=0.0051)


def test_dunnett__missing_and_certain_comparisons() -> None:
    assert dunnett([None, 2.1, None], [None, 20.0, None])[1] == pytest.approx(2 * stats.t.sf(2.1, 20), rel=1e-3)
    assert dunnett([None], [None]) == [None]
    certain, none = dunnett([float("inf"), 0.0], [2.0, 2.0])
    assert (certain, none) == (0.0, 1.0)


def test_dunnett__finds_more_than_holm_in_every_case() -> None:
    for t in ([2.6, 2.5, 0.1], [3.0, -2.4, 1.0], [2.2, 2.2, 2.2]):
        by_holm = holm([float(2 * stats.t.sf(abs(one), 20)) for one in t])
        for less, more in zip(dunnett(t, [20.0] * 3), by_holm, strict=True):
            assert less is not None and more is not None and less <= more + 1e-6
