"""Intervals over items and seeds, and the verdict on a difference.

Shapes: S seeds, N items, G groups of items, V variants beside the base.

The model: outcome(s, i) = mean + seed effect + item effect + rest. A mean over S seeds and N items then has two sources
of error, which are estimated apart: the seeds' part from the S means over items, the items' part by a bootstrap over
groups of items with the seeds kept (paired: both runs of a difference are drawn with the same items).

The interval is mean ± sqrt(t(n)² seeds' part + t(G - 1)² items' part), t being Student's quantile at the level and
n the degrees of freedom of the seeds' part. For a single mean n is S - 1. For the differences of a study, a spread seen
in two or three pairs alone would need a quantile so large that hardly anything could be told: the seeds' part is the
larger of the variant's own and the one pooled over all runs of the study, and n is V (S - 1).

Reference: Banerjee 1961 (Sankhya A 23, "On confidence interval for two-means problem based on separate estimates of
variances and tabulated values of t-table"): such an interval covers with at least its level, whatever the ratio of the
two variances. A percentile bootstrap over two or three seeds does not: it knows nothing of t.
Pooling assumes that runs of different variants spread alike over seeds; docs/ablations.md says what it costs if not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]

LEVEL = 0.05
"""Probability of a false winner among the variants of a study, and one less the level of the intervals."""
NUM_RESAMPLES = 1000
"""Bootstrap samples of the items: their variance is then known to 4.5 %, the interval to 2 %."""
_BOOTSTRAP_SEED = 20220327
_TAIL_FLOOR = 1e-12
_MINUS_LOG_LEVELS = np.linspace(0, -math.log(_TAIL_FLOOR), 4000)


class Verdict(Enum):
    """What is said about a difference."""

    better = "better"
    worse = "worse"
    cannot_tell = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds and items."""

    mean: float
    low: float | None
    """Lower end of the 95 % interval; none for a single seed, whose spread nobody knows."""
    high: float | None
    p_value: float | None
    """Smallest level at which the interval leaves out zero; none for a single seed."""
    num_seeds: int
    num_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """How much runs of a study spread over seeds, beside what all runs of a seed have in common."""

    variance: float
    """Of one run's mean."""
    degrees: int
    """Degrees of freedom behind it, >= 1."""


def pooled_spread(means_VS: Floats) -> SeedSpread | None:
    """The spread of a study's runs, from each variant's mean per seed, base included; none below two of either.

    The residual mean square of a two-way layout without repetition.
    """
    num_variants, num_seeds = means_VS.shape
    if num_variants < 2 or num_seeds < 2:
        return None
    rest = means_VS - means_VS.mean(axis=1, keepdims=True) - means_VS.mean(axis=0) + means_VS.mean()
    degrees = (num_variants - 1) * (num_seeds - 1)
    return SeedSpread(variance=float((rest**2).sum()) / degrees, degrees=degrees)


def estimate(
    outcomes_SN: Floats,
    groups_N: Groups | None = None,
    level: float = LEVEL,
    spread: SeedSpread | None = None,
) -> Estimate:
    """The mean with its interval.

    Args:
        outcomes_SN: Per seed and item: a hit (0 or 1), a reciprocal rank, or a difference of two such.
        groups_N: Items with the same number are drawn together (images of one class, say); none: each item alone.
        level: One less the coverage of the interval, in (0, 1).
        spread: For the difference of two runs: what the whole study says of their spread.

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
    half = math.sqrt(sum(t_quantile(level, n) ** 2 * part for part, n in parts))
    return Estimate(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p_value=_p_value(mean, parts),
        num_seeds=num_seeds,
        num_items=num_items,
    )


def paired_difference(
    variant_SN: Floats, base_SN: Floats, groups_N: Groups | None = None, spread: SeedSpread | None = None
) -> Estimate:
    """Variant less base, seed by seed and item by item; `spread` as in `estimate`.

    Raises:
        ValueError: The two are not of the same seeds and items.
    """
    if variant_SN.shape != base_SN.shape:
        raise ValueError(f"a paired difference needs the same seeds and items, got {variant_SN.shape}, {base_SN.shape}")
    return estimate(variant_SN - base_SN, groups_N, spread=spread)


def item_variance(outcomes_N: Floats, groups_N: Groups | None = None) -> tuple[float, int]:
    """Variance of the mean when the items are drawn anew, and the number of groups that are drawn.

    The resamples depend on the number of groups alone, so that the same outcomes always give the same interval.
    """
    index = np.arange(len(outcomes_N)) if groups_N is None else np.unique(groups_N, return_inverse=True)[1]
    sums: Floats = np.bincount(index, weights=outcomes_N).astype(float)
    sizes: Floats = np.bincount(index).astype(float)
    num_groups = len(sums)
    if num_groups < 2:
        return 0.0, num_groups
    counts = _resamples(num_groups)
    means = (counts @ sums) / (counts @ sizes)
    # A bootstrap sees the spread around its own mean, which is too small by (G - 1) / G.
    return float(means.var(ddof=1)) * num_groups / (num_groups - 1), num_groups


@lru_cache(maxsize=2)
def _resamples(num_groups: int) -> Floats:
    """How often each group is drawn in each resample, (NUM_RESAMPLES, G); 200 MB for 25,000 groups."""
    generator = np.random.default_rng([_BOOTSTRAP_SEED, num_groups])
    return generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES).astype(float)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for the number of comparisons; those that are none count as none made.

    Reference: Holm 1979 (Scand. J. Statist. 6, 65): with these, the probability of one false winner or more among all
    comparisons stays at the level, however they depend on each other.
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - place)))
        adjusted[index] = largest
    return adjusted


def verdict(difference: Estimate, adjusted_p: float | None, level: float = LEVEL) -> Verdict:
    """Better or worse where the corrected p-value is below the level, else cannot tell."""
    if adjusted_p is None or adjusted_p >= level:
        return Verdict.cannot_tell
    return Verdict.better if difference.mean > 0 else Verdict.worse


def t_quantile(level: float, degrees: int) -> float:
    """The t that |T| exceeds with probability `level`, in (1e-12, 1), for Student's T of `degrees` >= 1."""
    log_t, log_tail = _t_table(degrees)
    return math.exp(float(np.interp(-math.log(level), -log_tail, log_t)))


def _p_value(mean: float, parts: Sequence[tuple[float, int]]) -> float:
    """The level at which the half width, which grows as the level falls, reaches the mean."""
    if mean == 0:
        return 1.0
    if not any(part for part, _ in parts):
        return 0.0
    squared_half = sum(part * _squared_quantiles(degrees) for part, degrees in parts)
    return math.exp(-float(np.interp(mean * mean, squared_half, _MINUS_LOG_LEVELS)))


@lru_cache(maxsize=256)
def _squared_quantiles(degrees: int) -> Floats:
    """Student's t, squared, at the levels of the grid."""
    log_t, log_tail = _t_table(degrees)
    squared: Floats = np.exp(2 * np.interp(_MINUS_LOG_LEVELS, -log_tail, log_t))
    return squared


@lru_cache(maxsize=256)
def _t_table(degrees: int) -> tuple[Floats, Floats]:
    """(log t, log P(|T| > t)) on a fine grid from near 0 to where the tail is negligible.

    With t = sqrt(n) / tan(u), the tail is an integral of sin(u)^(n-1) from 0, which has no far end to cut off.
    """
    t = np.geomspace(1e-6, 1e13, 8000)
    nodes, weights = np.polynomial.legendre.leggauss(100)
    upper = np.arctan(math.sqrt(degrees) / t)
    angles = upper[:, None] * (nodes + 1) / 2
    integral = (upper / 2) * (np.sin(angles) ** (degrees - 1) @ weights)
    factor = 2 * math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    tail = np.minimum(1.0, factor * integral)
    kept = tail > _TAIL_FLOOR / 10
    return np.log(t[kept]), np.log(tail[kept])
