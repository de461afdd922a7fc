"""Intervals of a statistic over several runs (seeds) on the same items.

Shapes: S runs, R resamples of the items (or clusters of items), the same ones in every run.

The mean over runs varies for two reasons, other seeds and other items. With the variance over runs of the S values, the
variance over resamples of the mean, and that of each run's values,

    seed part = variance over runs / S
    item part = variance over resamples of the mean over runs
    residual  = (mean over runs of the variance over resamples − item part) / (S − 1)

Both parts hold the residual (what a seed does to single items), so that the variance of the mean is their sum minus the
residual, and never below the larger of them. The interval is that of Student's t with Satterthwaite's degrees of
freedom. With one run there is no seed part, and the percentile interval of the resamples is
returned.

References: Owen 2007, The pigeonhole bootstrap (seeds and items as crossed factors); Satterthwaite 1946, An Approximate
Distribution of Estimates of Variance Components.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, t

from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.bootstrap import Interval, interval_of


def interval_over_runs(values: ArrayLike, resampled: ArrayLike, num_clusters: int) -> Interval:
    """The mean over runs with its interval.

    Args:
        values: (S,) the statistic of each run.
        resampled: (S, R) the same on resampled items.
        num_clusters: Number of items or clusters that were resampled, at least 2 with several runs.

    Raises:
        ValueError: Shapes do not fit.
    """
    points = np.asarray(values, dtype=np.float64)
    draws: NDArray[np.float64] = np.asarray(resampled, dtype=np.float64)
    if points.ndim != 1 or draws.ndim != 2 or len(points) != len(draws) or not len(points):
        raise ValueError(f"values {points.shape} and resampled {draws.shape} must be (S,) and (S, R)")
    count, value = len(points), float(points.mean())
    if count == 1:
        return interval_of(value, draws[0])
    seed = float(points.var(ddof=1)) / count
    item = float(draws.mean(axis=0).var(ddof=1))
    residual = max(0.0, (float(draws.var(axis=1, ddof=1).mean()) - item) / (count - 1))
    total = max(seed + item - residual, seed, item)
    if total == 0:
        return Interval(value=value, low=value, high=value)
    freedom = total**2 / (seed**2 / (count - 1) + item**2 / max(1, num_clusters - 1))
    half = float(t.ppf(1 - ALPHA / 2, freedom)) * total**0.5
    return Interval(value=value, low=value - half, high=value + half)


def share_interval(hits: Sequence[bool] | NDArray[np.bool_], num_distinct: int) -> Interval:
    """A share with its Clopper–Pearson interval, which has a width where all or none are hits.

    Args:
        hits: One outcome per item and run.
        num_distinct: Number of distinct items: outcomes of one item in several runs count as one, which is cautious.

    Raises:
        ValueError: There are no outcomes, or more items than outcomes.
    """
    if not len(hits) or not 0 < num_distinct <= len(hits):
        raise ValueError(f"{len(hits)} outcomes of {num_distinct} items")
    value = float(np.mean(np.asarray(hits, dtype=np.float64)))
    found = value * num_distinct
    low = 0.0 if found == 0 else float(beta.ppf(ALPHA / 2, found, num_distinct - found + 1))
    high = 1.0 if found == num_distinct else float(beta.ppf(1 - ALPHA / 2, found + 1, num_distinct - found))
    return Interval(value=value, low=low, high=high)
