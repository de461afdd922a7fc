"""Ratios with their t-intervals."""

import math

import numpy as np
import pytest

from kelip_lightning.benchmarks.ratios import ratio_of

T_OF_3 = 3.182446305284263
"""Student's t at 97.5 % and 3 degrees of freedom, from a printed table."""


def test_ratio_of__is_the_t_interval_of_the_mean_logarithm() -> None:
    ours, theirs = np.array([12.0, 11.0, 13.0, 12.5]), np.array([10.0, 10.5, 9.5, 10.0])
    logarithms = np.log(ours) - np.log(theirs)
    half = T_OF_3 * logarithms.std(ddof=1) / 2
    found = ratio_of(ours.tolist(), theirs.tolist())
    assert found.low is not None and found.high is not None
    np.testing.assert_allclose(
        [found.value, found.low, found.high], np.exp(logarithms.mean() + np.array([0, -half, half])), rtol=1e-9
    )
    assert found.low < found.value < found.high


def test_ratio_of__the_inverse_ratio_has_the_inverse_interval() -> None:
    first, second = [2.0, 3.0, 2.5], [1.0, 1.2, 1.1]
    there, back = ratio_of(first, second), ratio_of(second, first)
    assert there.low is not None and back.high is not None
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_ratio_of__one_round_has_no_interval() -> None:
    found = ratio_of([3.0], [2.0])
    assert (math.isclose(found.value, 1.5), found.low, found.high) == (True, None, None)


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 2.0]), ([], [])])
def test_ratio_of__refuses_what_is_not_paired(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match=r"argument|at least one"):
        ratio_of(first, second)
