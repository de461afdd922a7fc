"""P-values corrected for the number of comparisons: Holm's and Dunnett's, both step-down.

Dunnett's correction is for comparisons with one reference: the estimates share its noise, so their correlation is 1/2
when all runs have the same variance. It finds more than Holm's, which allows any dependence.

Implemented here because `scipy.stats.dunnett` takes samples of independent groups and tests in a single step, and
`scipy.stats.multivariate_t` integrates by random points, so that a p-value would not repeat.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(48)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
"""Expectations over a standard normal variable: the reference's noise."""
_LOG_SCALES = np.linspace(-14.0, 7.0, 43)
"""Logarithms of the estimated over the true standard deviation, in units of 1 / sqrt(2 degrees of freedom)."""
_BLOCK = 512
"""P-values in memory at a time: 9 MB an array."""


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p-values; `None` is no comparison and stays `None`.

    Reference: Holm 1979 (Scand. J. Statist. 6, 65): bounds the family-wise error rate under any dependence.
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - place)))
        adjusted[index] = largest
    return adjusted


def dunnett(statistics: Sequence[float | None], degrees: Sequence[float | None]) -> list[float | None]:
    """Step-down Dunnett-adjusted p-values, two-sided.

    Reference: Dunnett & Tamhane 1991 (Statistics in Medicine 10, 939): the most significant comparison is tested
    against the largest of all, the next against the largest of those left, and so on.

    Args:
        statistics: Difference from the reference over its standard error; `None` is no comparison and stays `None`.
        degrees: Degrees of freedom of each, > 0.
    """
    pairs = enumerate(zip(statistics, degrees, strict=True))
    known = [(abs(t), df, index) for index, (t, df) in pairs if t is not None and df is not None]
    alone = {index: float(2 * stats.t.sf(t, df)) for t, df, index in known}
    adjusted: list[float | None] = [None] * len(statistics)
    largest = 0.0
    for place, (t, df, index) in enumerate(sorted(known, key=lambda one: (alone[one[2]], -one[0]))):
        left = len(known) - place
        p = float(dunnett_p(np.array([t]), np.array([df]), left)[0]) if left > 1 else alone[index]
        largest = max(largest, p, alone[index])
        adjusted[index] = largest
    return adjusted


def dunnett_p(statistics: Floats, degrees: Floats, comparisons: int) -> Floats:
    """(M,): probability that the largest of `comparisons` equicorrelated |t| exceeds each statistic, correlation 1/2.

    Given the reference's noise and the estimated standard deviation the comparisons are independent, so it is a
    double integral: Gauss–Hermite over the first, the trapezoidal rule over the logarithm of the second.

    Args:
        statistics: (M,); the sign is ignored.
        degrees: (M,), > 0; infinite for a known standard deviation.
        comparisons: Number of comparisons left, >= 1.
    """
    p = np.empty(len(statistics))
    for start in range(0, len(p), _BLOCK):
        part = slice(start, start + _BLOCK)
        df = np.minimum(degrees[part], 1e6)[:, None]
        log_scale = _LOG_SCALES / np.sqrt(2 * df)
        # Density of log s, with df s² chi-squared of df degrees of freedom; constants cancel.
        log_density = df * (log_scale - (np.exp(2 * log_scale) - 1) / 2)
        weights = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        limit = np.sqrt(2) * np.abs(statistics[part])[:, None] * np.exp(log_scale)
        inside = special.ndtr(limit[..., None] + _NODES) - special.ndtr(_NODES - limit[..., None])
        exceeding = -np.expm1(comparisons * np.log(np.maximum(inside, 1e-300)))
        p[part] = ((exceeding @ _WEIGHTS) * weights).sum(axis=1)
    return np.clip(p, 0.0, 1.0)


@lru_cache(maxsize=1024)
def critical_value(level: float, degrees: float, comparisons: int) -> float:
    """The |t| at which `dunnett_p` is the level, in (0, 1)."""

    def excess(log_t: float) -> float:
        return float(dunnett_p(np.array([np.exp(log_t)]), np.array([degrees]), comparisons)[0]) - level

    return float(np.exp(optimize.brentq(excess, -10.0, 10.0)))
