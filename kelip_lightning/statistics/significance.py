"""Confidence intervals over items and seeds, and the verdict on a difference.

Shapes: S seeds, N items, G groups of items (each item alone: G = N), V variants besides the reference; `...`: any
leading axes, so that simulations analyse many studies at once.

Model: outcome(s, i) = mean + seed effect + item effect + residual, seeds crossed with items. Of the S x G table of a
mean or paired difference, as in a two-way analysis of variance with random effects,

    seed part      variance of the S row means / S             = (seed variance + residual / G) / S
    item part      variance of the G column means / G          = (item variance + residual / S) / G
    residual part  residual mean square / (S G)                = residual / (S G)

and the variance of the mean is seed part + item part - residual part, because both parts contain the residual one. It
is at least the larger of the two parts. Degrees of freedom: Satterthwaite's, from S - 1, G - 1 and (S - 1)(G - 1), with
an upper limit (confidence 60 %) for the seed part: where it is small by chance they would be too many.

With two or three seeds S - 1 degrees of freedom leave hardly any power. So for the differences of a study the seed part
is pooled over all its runs, with V (S - 1) degrees of freedom, and raised where a variant's own is larger:

    seed part = P + 1.25 w max(0, own - P),   w = max(0, 1 - residual part / upper limit of P)

P is the pooled part and w the share that differences between seeds can have in it: the rest is sampling noise of the
items, which is the same for all variants, so that a larger own part is then chance. The upper limit has a confidence of
90 %. The factor makes up for own parts that are small by chance. An F test of own against pooled finds too few of the
variants with a larger spread; `simulation` has the error rates.

References: Satterthwaite 1946 (Biometrics Bulletin 2, 110); Searle, Casella & McCulloch 1992, Variance Components, 4
(the two-way crossed classification). docs/ablations.md has the error rates and the power.

Implemented here because no library tests differences with crossed seeds and items and a pooled seed part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.multiplicity import dunnett

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]

_EXCESS = 1.25
"""Weight of a variant's own excess over the pooled seed part."""
_UPPER_LIMIT = 0.9
"""Confidence of the upper limit of the pooled seed part."""
_DEGREES_LIMIT = 0.6
"""Confidence of the upper limit of the seed part that the degrees of freedom are computed with."""
_MOST_DEGREES = 1e6


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
    error: float | None = None
    """Standard error of the mean; `None` without an interval."""
    degrees: float | None = None
    """Its degrees of freedom, in (0, 1e6]."""

    @property
    def statistic(self) -> float | None:
        """Student's t: the mean over its standard error; `None` without an interval."""
        if self.error is None:
            return None
        return self.mean / self.error if self.error else float(np.sign(self.mean) * np.inf if self.mean else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """Variance of a study's runs over seeds, without the effect that all runs of a seed share."""

    variance: float
    """Of one run's mean."""
    degrees: int
    """Degrees of freedom, >= 1."""

    def of_group(self, num_runs: int) -> Self:
        """For the difference between the mean of a group's runs of a seed and one run.

        That of two runs has the variance 2 v, this one (1 + 1 / num_runs) v.
        """
        return replace(self, variance=self.variance * (1 + 1 / num_runs) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceParts:
    """Parts of the variance of means over S seeds and G groups, each (...)."""

    seeds: Floats
    items: Floats
    """Zero for a single group, whose variance is unknown."""
    residual: Floats
    num_seeds: int
    num_groups: int


def group_table(outcomes_SN: Floats, groups_N: Groups | None = None) -> Floats:
    """Values (S, G) whose mean over G is each seed's mean over N items: of equal groups the groups' means.

    Of groups of different sizes it is the linearised ratio of sums to sizes, whose variance over groups is the
    cluster-robust one.
    """
    if groups_N is None:
        return outcomes_SN
    index = np.unique(groups_N, return_inverse=True)[1]
    order, sizes = np.argsort(index, kind="stable"), np.bincount(index)
    sums: Floats = np.add.reduceat(outcomes_SN[:, order], np.cumsum(sizes) - sizes, axis=1)
    mean = outcomes_SN.mean()
    table: Floats = mean + (sums - sizes * mean) * len(sizes) / len(index)
    return table


def variance_parts(table: NDArray[np.floating]) -> VarianceParts:
    """Mean squares of tables (..., S, G), S >= 2, as parts of the variance of their means."""
    num_seeds, num_groups = table.shape[-2:]
    rows, columns = table.mean(axis=-1, dtype=np.float64), table.mean(axis=-2, dtype=np.float64)
    seeds = rows.var(axis=-1, ddof=1) / num_seeds
    if num_groups < 2:
        return VarianceParts(
            seeds=seeds,
            items=np.zeros_like(seeds),
            residual=np.zeros_like(seeds),
            num_seeds=num_seeds,
            num_groups=num_groups,
        )
    centred = table - rows.mean(axis=-1)[..., None, None]
    total = np.einsum("...sg,...sg->...", centred, centred)
    between = num_groups * (num_seeds - 1) * num_seeds * seeds
    item_mean_square = num_seeds * columns.var(axis=-1, ddof=1)
    left = np.maximum(total - between - (num_groups - 1) * item_mean_square, 0.0)
    cells = num_seeds * num_groups
    return VarianceParts(
        seeds=seeds,
        items=item_mean_square / cells,
        residual=left / ((num_seeds - 1) * (num_groups - 1)) / cells,
        num_seeds=num_seeds,
        num_groups=num_groups,
    )


def pooled_variance(means: Floats) -> Floats:
    """Residual mean square (...) of the two-way layouts (..., runs, S) of variant and seed, (runs - 1)(S - 1) degrees.

    Args:
        means: Each variant's mean per seed, reference included; at least two of both.
    """
    runs, seeds = means.shape[-2:]
    rows, columns = means.mean(axis=-1, keepdims=True), means.mean(axis=-2, keepdims=True)
    residuals = means - rows - columns + means.mean(axis=(-2, -1), keepdims=True)
    variance: Floats = (residuals**2).sum(axis=(-2, -1)) / ((runs - 1) * (seeds - 1))
    return variance


def pooled_spread(means_VS: Floats) -> SeedSpread | None:
    """The seed variance of a study's runs; with fewer than two runs or seeds the result is `None`.

    Args:
        means_VS: Each variant's mean per seed, reference included.
    """
    runs, seeds = means_VS.shape
    if runs < 2 or seeds < 2:
        return None
    return SeedSpread(variance=float(pooled_variance(means_VS)), degrees=(runs - 1) * (seeds - 1))


def pooled_seed_part(parts: VarianceParts, pooled: Floats, degrees: int) -> Floats:
    """The seed part of a difference, (...): the pooled one, raised where its own is larger; see the module.

    Args:
        parts: Of the difference.
        pooled: Variance of one run's mean over seeds, broadcast to the parts.
        degrees: Of `pooled`.
    """
    part = 2 * pooled / parts.num_seeds
    upper = part * (degrees / stats.chi2.ppf(1 - _UPPER_LIMIT, degrees))
    share = np.clip(1 - parts.residual / np.where(upper > 0, upper, np.inf), 0.0, 1.0)
    raised: Floats = part + _EXCESS * share * np.maximum(parts.seeds - part, 0.0)
    return raised


def error_of(parts: VarianceParts, seeds: Floats, degrees: int) -> tuple[Floats, Floats]:
    """Standard error of the mean and its degrees of freedom, both (...).

    Args:
        parts: Of the mean.
        seeds: The seed part, own or pooled.
        degrees: Of `seeds`.
    """
    group_degrees = max(1, parts.num_groups - 1)
    upper = seeds * (degrees / stats.chi2.ppf(1 - _DEGREES_LIMIT, degrees))
    weights = upper**2 / degrees + parts.items**2 / group_degrees
    weights = weights + parts.residual**2 / ((parts.num_seeds - 1) * group_degrees)
    found = _sum_of(parts, upper) ** 2 / np.where(weights > 0, weights, 1.0)
    error: Floats = np.sqrt(_sum_of(parts, seeds))
    return error, np.where(weights > 0, np.clip(found, 1.0, _MOST_DEGREES), float(degrees))


def _sum_of(parts: VarianceParts, seeds: Floats) -> Floats:
    """Variance of the mean, at least the larger of its two parts."""
    found: Floats = np.maximum(seeds + parts.items - parts.residual, np.maximum(seeds, parts.items))
    return found


def estimate_mean(
    outcomes_SN: Floats, groups_N: Groups | None = None, level: float = ALPHA, spread: SeedSpread | None = None
) -> Estimate:
    """The mean with its interval and p-value.

    Args:
        outcomes_SN: Per seed and item: a hit (0 or 1), a reciprocal rank, or a difference of two such.
        groups_N: Items with the same number are dependent (images of one class); `None`: each item alone.
        level: 1 - coverage of the interval, in (0, 1).
        spread: For the difference of two runs: the spread pooled over the study.

    Raises:
        ValueError: There is no seed or no item.
    """
    _check_shape(outcomes_SN)
    num_seeds, num_items = outcomes_SN.shape
    mean = float(outcomes_SN.mean())
    if num_seeds < 2:
        return Estimate(mean=mean, low=None, high=None, p_value=None, num_seeds=num_seeds, num_items=num_items)
    parts = variance_parts(group_table(outcomes_SN, groups_N))
    seeds, degrees = parts.seeds, num_seeds - 1
    if spread is not None:
        seeds, degrees = pooled_seed_part(parts, np.array(spread.variance), spread.degrees), spread.degrees
    error, found = error_of(parts, seeds, degrees)
    return _with_interval(mean, float(error), float(found), level, outcomes_SN.shape)


def estimate_over_items(outcomes_SN: Floats, groups_N: Groups | None = None, level: float = ALPHA) -> Estimate:
    """The mean with its interval over items alone: what other items of the same kind would give these very models.

    Args:
        outcomes_SN: As in `estimate_mean`; of several seeds the mean is taken first.
        groups_N: As in `estimate_mean`.
        level: 1 - coverage of the interval, in (0, 1).

    Raises:
        ValueError: There is no seed or no item.
    """
    _check_shape(outcomes_SN)
    num_seeds, num_items = outcomes_SN.shape
    mean = float(outcomes_SN.mean())
    columns = group_table(outcomes_SN, groups_N).mean(axis=0)
    if len(columns) < 2:
        return Estimate(mean=mean, low=None, high=None, p_value=None, num_seeds=num_seeds, num_items=num_items)
    error = float(np.sqrt(columns.var(ddof=1) / len(columns)))
    return _with_interval(mean, error, len(columns) - 1, level, outcomes_SN.shape)


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


def adjusted_p_values(differences: Sequence[Estimate]) -> list[float | None]:
    """Dunnett-adjusted p-values of differences from one reference; `None` without an interval."""
    return dunnett([one.statistic for one in differences], [one.degrees for one in differences])


def verdict(difference: Estimate, adjusted_p: float | None, level: float = ALPHA) -> Verdict:
    """Better or worse if the adjusted p-value is below the level, else inconclusive."""
    if adjusted_p is None or adjusted_p >= level:
        return Verdict.inconclusive
    return Verdict.better if difference.mean > 0 else Verdict.worse


def _check_shape(outcomes_SN: Floats) -> None:
    if outcomes_SN.ndim != 2 or not outcomes_SN.size:
        raise ValueError(f"outcomes must be (seeds, items) with at least one of each, got shape {outcomes_SN.shape}")


def _with_interval(mean: float, error: float, degrees: float, level: float, shape: tuple[int, ...]) -> Estimate:
    half = float(stats.t.isf(level / 2, degrees)) * error
    certain = 0.0 if mean else 1.0
    return Estimate(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p_value=float(2 * stats.t.sf(abs(mean) / error, degrees)) if error else certain,
        num_seeds=shape[0],
        num_items=shape[1],
        error=error,
        degrees=degrees,
    )
