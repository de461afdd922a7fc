"""Ratios of paired measurements with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kelip_lightning.statistics.significance import estimate_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A geometric mean of ratios with its 95 % interval."""

    value: float
    low: float | None
    """Lower end; `None` for a single round, whose variance is unknown."""
    high: float | None


def ratio_of(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """First over second, paired by round, both > 0: the t-interval of the mean logarithm, (N - 1) degrees of freedom.

    Raises:
        ValueError: The numbers of rounds differ, or there is none.
    """
    logarithms = [math.log(a / b) for a, b in zip(first, second, strict=True)]
    found = estimate_mean(np.array(logarithms).reshape(-1, 1))
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Ratio(value=math.exp(found.mean), low=low, high=high)
