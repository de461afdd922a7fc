"""Confidence intervals over items and seeds, and the verdict on a difference.

Shapes: S seeds, N items, G groups of items, V variants besides the reference.

Model: outcome(s, i) = mean + seed effect + item effect + residual. The variance of a mean over S seeds and N items has
two parts: the seeds' part, from the S means over items, and the items' part, from a bootstrap over groups of items
with the seeds fixed (paired: both runs of a difference are resampled with the same items).

The interval is mean ± sqrt(t(n)² seeds' part + t(G - 1)² items' part), with Student's quantile t at the level and n
degrees of freedom of the seeds' part. For a single mean n = S - 1. With two or three seeds that quantile is so large
that few differences would be significant; so for the differences of a study the seeds' part is the larger of the
variant's own and the one pooled over all runs of the study, and n = V (S - 1).

Reference: Banerjee 1961 (Sankhya A 23, "On confidence interval for two-means problem based on separate estimates of
variances and tabulated values of t-table"): such an interval has at least its nominal coverage for any ratio of the
two variances. A percentile bootstrap over two or three seeds does not.
Pooling assumes that all variants have the same variance over seeds; docs/ablations.md quantifies violations.

Implemented here because no library combines crossed seeds and items.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from kelip_lightning.statistics import ALPHA

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]

NUM_RESAMPLES = 1000
"""Bootstrap samples of the items; standard error of their variance 4.5 %, of the interval 2 %."""
_BOOTSTRAP_SEED = 20220327
_TAIL_FLOOR = 1e-12


class Verdict(Enum):
    """Result of a test of a difference."""

    better = "better"
    worse = "worse"
    inconclusive = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds and items."""

    mean: float
    low: float | None
    """Lower end of the 95 % interval; `None` for a single seed, whose variance is unknown."""
    high: float | None
    p_value: float | None
    """Smallest level at which the interval excludes zero; `None` for a single seed."""
    num_seeds: int
    num_items: int
    parts: tuple[tuple[float, int], ...] = ()
    """Variance of the mean and its degrees of freedom, over seeds and over items; empty without an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """Variance of a study's runs over seeds, without the effect that all runs of a seed share."""

    variance: float
    """Of one run's mean."""
    degrees: int
    """Degrees of freedom, >= 1."""


def pooled_spread(means_VS: Floats) -> SeedSpread | None:
    """Residual mean square of the two-way layout of a study's runs (variant x seed, without repetition).

    Args:
        means_VS: Each variant's mean per seed, reference included; with fewer than two of either the result is `None`.
    """
    num_variants, num_seeds = means_VS.shape
    if num_variants < 2 or num_seeds < 2:
        return None
    residuals = means_VS - means_VS.mean(axis=1, keepdims=True) - means_VS.mean(axis=0) + means_VS.mean()
    degrees = (num_variants - 1) * (num_seeds - 1)
    return SeedSpread(variance=float((residuals**2).sum()) / degrees, degrees=degrees)


def estimate_mean(
    outcomes_SN: Floats, groups_N: Groups | None = None, level: float = ALPHA, spread: SeedSpread | None = None
) -> Estimate:
    """The mean with its interval and p-value.

    Args:
        outcomes_SN: Per seed and item: a hit (0 or 1), a reciprocal rank, or a difference of two such.
        groups_N: Items with the same number are resampled together (images of one class); `None`: each item alone.
        level: 1 - coverage of the interval, in (0, 1).
        spread: For the difference of two runs: the spread pooled over the study.

    Raises:
        ValueError: There is no seed or no item.
    """
    if outcomes_SN.ndim != 2 or not outcomes_SN.size:
        raise ValueError(f"outcomes must be (seeds, items) with at least one of each, got shape {outcomes_SN.shape}")
    num_seeds, num_items = outcomes_SN.shape
    mean = float(outcomes_SN.mean())
    if num_seeds < 2:
        return Estimate(mean=mean, low=None, high=None, p_value=None, num_seeds=num_seeds, num_items=num_items)
    seeds, degrees = float(outcomes_SN.mean(axis=1).var(ddof=1)) / num_seeds, num_seeds - 1
    if spread is not None:
        seeds, degrees = max(seeds, 2 * spread.variance / num_seeds), spread.degrees
    items, num_groups = item_variance(outcomes_SN.mean(axis=0), groups_N)
    parts = [(seeds, degrees)] + ([(items, num_groups - 1)] if num_groups > 1 else [])
    return _with_interval(mean, parts, level, outcomes_SN.shape)


def estimate_over_items(outcomes_SN: Floats, groups_N: Groups | None = None, level: float = ALPHA) -> Estimate:
    """The mean with its interval over items alone: what other items of the same kind would give these very models.

    Args:
        outcomes_SN: As in `estimate_mean`; of several seeds the mean is taken first.
        groups_N: As in `estimate_mean`.
        level: 1 - coverage of the interval, in (0, 1).

    Raises:
        ValueError: There is no seed or no item.
    """
    if outcomes_SN.ndim != 2 or not outcomes_SN.size:
        raise ValueError(f"outcomes must be (seeds, items) with at least one of each, got shape {outcomes_SN.shape}")
    num_seeds, num_items = outcomes_SN.shape
    mean = float(outcomes_SN.mean())
    variance, num_groups = item_variance(outcomes_SN.mean(axis=0), groups_N)
    if num_groups < 2:
        return Estimate(mean=mean, low=None, high=None, p_value=None, num_seeds=num_seeds, num_items=num_items)
    return _with_interval(mean, [(variance, num_groups - 1)], level, outcomes_SN.shape)


def _with_interval(mean: float, parts: Sequence[tuple[float, int]], level: float, shape: tuple[int, ...]) -> Estimate:
    half = half_width(parts, level)
    return Estimate(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p_value=_p_value(mean, parts),
        num_seeds=shape[0],
        num_items=shape[1],
        parts=tuple(parts),
    )


def half_width(parts: Sequence[tuple[float, int]], level: float) -> float:
    """Half of the interval's width at a level in (0, 1), from variances with their degrees of freedom."""
    return math.sqrt(sum(_t_quantile(level, degrees) ** 2 * part for part, degrees in parts))


def paired_difference(
    variant_SN: Floats, reference_SN: Floats, groups_N: Groups | None = None, spread: SeedSpread | None = None
) -> Estimate:
    """Variant minus reference, paired by seed and item; `spread` as in `estimate_mean`.

    Raises:
        ValueError: Numbers of seeds or items differ.
    """
    if variant_SN.shape != reference_SN.shape:
        raise ValueError(
            f"a paired difference needs the same seeds and items, got {variant_SN.shape}, {reference_SN.shape}"
        )
    return estimate_mean(variant_SN - reference_SN, groups_N, spread=spread)


def item_variance(outcomes_N: Floats, groups_N: Groups | None = None) -> tuple[float, int]:
    """Bootstrap variance of the mean over items, and the number of groups that are resampled.

    The resamples depend on the number of groups only, so the same outcomes always give the same interval.
    """
    index = np.arange(len(outcomes_N)) if groups_N is None else np.unique(groups_N, return_inverse=True)[1]
    sums: Floats = np.bincount(index, weights=outcomes_N).astype(float)
    sizes: Floats = np.bincount(index).astype(float)
    num_groups = len(sums)
    if num_groups < 2:
        return 0.0, num_groups
    counts = _resamples(num_groups)
    means = (counts @ sums) / (counts @ sizes)
    # The bootstrap variance is around the sample mean, so too small by (G - 1) / G.
    return float(means.var(ddof=1)) * num_groups / (num_groups - 1), num_groups


@lru_cache(maxsize=2)
def _resamples(num_groups: int) -> Floats:
    """Counts of each group in each resample, (NUM_RESAMPLES, G); 200 MB for 25,000 groups."""
    generator = np.random.default_rng([_BOOTSTRAP_SEED, num_groups])
    return generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES).astype(float)


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


def verdict(difference: Estimate, adjusted_p: float | None, level: float = ALPHA) -> Verdict:
    """Better or worse if the adjusted p-value is below the level, else inconclusive."""
    if adjusted_p is None or adjusted_p >= level:
        return Verdict.inconclusive
    return Verdict.better if difference.mean > 0 else Verdict.worse


def _t_quantile(level: float, degrees: int) -> float:
    """The t that |T| exceeds with probability `level`, in (0, 1), for Student's T of `degrees` >= 1."""
    return float(stats.t.isf(level / 2, degrees))


def _p_value(mean: float, parts: Sequence[tuple[float, int]]) -> float:
    """The level at which the half width, which grows as the level falls, equals the mean; at least 1e-12."""
    if mean == 0:
        return 1.0
    if not any(part for part, _ in parts):
        return 0.0

    def excess(log_level: float) -> float:
        return sum(part * _t_quantile(math.exp(log_level), degrees) ** 2 for part, degrees in parts) - mean * mean

    lowest = math.log(_TAIL_FLOOR)
    return _TAIL_FLOOR if excess(lowest) <= 0 else math.exp(float(optimize.brentq(excess, lowest, 0.0)))
