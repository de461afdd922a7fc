"""Percentile bootstrap intervals of means over items, of differences on the same items, and of other statistics.

Shapes: N items, R resamples.

Reference: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kelip_lightning.statistics import CONFIDENCE

_MAX_CELLS = 2**24
"""Counts in memory at a time: 128 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its interval of coverage `CONFIDENCE`."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`above` or `below` zero where the interval excludes it, else `inconclusive`."""
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Resampling of items; the same seed and number of items give the same resamples, so runs are paired."""

    seed: int = 0
    num_resamples: int = 2000

    def mean(self, values: ArrayLike, clusters: Sequence[str] | None = None) -> Interval:
        """The mean of N values.

        Args:
            values: (N,), any number type; the mean of booleans is a share.
            clusters: N names; items of one cluster are dependent and resampled together.

        Raises:
            ValueError: There is no value, or the number of clusters differs.
        """
        return self.mean_of_strata([values], [clusters])

    def difference(self, first: ArrayLike, second: ArrayLike, clusters: Sequence[str] | None = None) -> Interval:
        """The mean of first minus second, paired: (N,) each, the same items in the same order."""
        return self.mean(_vector(first) - _vector(second), clusters)

    def mean_of_strata(
        self, strata: Sequence[ArrayLike], clusters: Sequence[Sequence[str] | None] | None = None
    ) -> Interval:
        """The unweighted mean of the strata's means; each stratum is resampled separately.

        Args:
            strata: Values (N,) of each stratum.
            clusters: For each stratum as in `mean`; `None`: every item is a cluster.
        """
        columns = [_vector(one) for one in strata]
        resampled = self.resampled_means(columns, clusters)
        return interval_of(float(np.mean([one.mean() for one in columns])), resampled)

    def resampled_means(
        self, strata: Sequence[ArrayLike], clusters: Sequence[Sequence[str] | None] | None = None
    ) -> NDArray[np.float64]:
        """(R,) the unweighted mean of the strata's means in each resample; arguments as in `mean_of_strata`."""
        columns = [_vector(one) for one in strata]
        names = [None] * len(columns) if clusters is None else list(clusters)
        if not columns or not all(len(one) for one in columns):
            raise ValueError("a bootstrap needs at least one value in every stratum")
        generator = np.random.default_rng(self.seed)
        means = [self._means(one, name, generator) for one, name in zip(columns, names, strict=True)]
        resampled: NDArray[np.float64] = np.mean(means, axis=0)
        return resampled

    def resampled_rows(self, clusters: Sequence[str]) -> Iterator[NDArray[np.int64]]:
        """R times the rows of a resample of N items; items of one cluster are resampled together."""
        _, index = np.unique(np.asarray(clusters), return_inverse=True)
        members = [np.flatnonzero(index == one) for one in range(index.max() + 1)]
        generator = np.random.default_rng(self.seed)
        for _ in range(self.num_resamples):
            yield np.concatenate([members[one] for one in generator.integers(0, len(members), size=len(members))])

    def unpaired_difference(self, first: ArrayLike, second: ArrayLike) -> Interval:
        """Mean of first minus mean of second, which are different items."""
        generator = np.random.default_rng(self.seed)
        a, b = _vector(first), _vector(second)
        resampled = self._means(a, None, generator) - self._means(b, None, generator)
        return interval_of(float(a.mean() - b.mean()), resampled)

    def length_of_mean(self, rows: NDArray[np.floating]) -> Interval:
        """Euclidean norm of the mean of (N, E) rows; for differences of paired rows, the distance of their means.

        The squared norm of a mean is biased upwards by the variance of the mean, summed over E, and that of a
        resampled mean by twice as much. Both biases are subtracted (result at least 0).
        """
        means = self._row_means(rows, np.random.default_rng(self.seed))
        return _length(rows.mean(axis=0), means, _variance_of_mean(rows))

    def distance_of_means(self, first: NDArray[np.floating], second: NDArray[np.floating]) -> Interval:
        """Euclidean distance between the mean rows of (N, E) and (M, E), resampled separately; bias as above."""
        generator = np.random.default_rng(self.seed)
        means = self._row_means(first, generator) - self._row_means(second, generator)
        variance = _variance_of_mean(first) + _variance_of_mean(second)
        return _length(first.mean(axis=0) - second.mean(axis=0), means, variance)

    def _means(
        self, values: NDArray[np.float64], clusters: Sequence[str] | None, generator: np.random.Generator
    ) -> NDArray[np.float64]:
        """(R,) means of resamples; clusters are resampled as a whole."""
        sums, sizes = _cluster_totals(values, clusters)
        resampled_sums, resampled_sizes = self._row_means(np.stack([sums, sizes], axis=1), generator).T
        means: NDArray[np.float64] = resampled_sums / resampled_sizes
        return means

    def _row_means(self, rows: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.float64]:
        """Means (R, E) over resampled rows of (N, E), in blocks of limited memory."""
        num_rows, done, pieces = len(rows), 0, []
        while done < self.num_resamples:
            size = min(self.num_resamples - done, max(1, _MAX_CELLS // num_rows))
            indices = generator.integers(0, num_rows, size=(size, num_rows)) + num_rows * np.arange(size)[:, None]
            counts = np.bincount(indices.ravel(), minlength=size * num_rows).reshape(size, num_rows)
            # As floats: integer products do not use BLAS.
            pieces.append(counts.astype(np.float64) @ rows.astype(np.float64) / num_rows)
            done += size
        return np.concatenate(pieces)


def _variance_of_mean(rows: NDArray[np.floating]) -> float:
    """Squared standard error of the mean row, summed over its elements."""
    return float(rows.var(axis=0, ddof=1).sum() / len(rows))


def _length(mean: NDArray[np.floating], resampled: NDArray[np.float64], variance: float) -> Interval:
    value = np.sqrt(max(0.0, float(mean @ mean) - variance))
    squares = np.einsum("re,re->r", resampled, resampled) - 2 * variance
    return interval_of(float(value), np.sqrt(np.maximum(squares, 0.0)))


def interval_of(value: float, resampled: NDArray[np.float64]) -> Interval:
    """The estimate with the percentile interval of its resampled values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"expected a vector of values, got shape {vector.shape}")
    return vector


def _cluster_totals(
    values: NDArray[np.float64], clusters: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if clusters is None:
        return values, np.ones_like(values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values need as many cluster names, got {len(clusters)}")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros(index.max() + 1)
    np.add.at(sums, index, values)
    return sums, np.bincount(index).astype(np.float64)
