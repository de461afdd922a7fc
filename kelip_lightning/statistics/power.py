"""Power of the rule in `significance` for a study that was run, from its variances; `simulation` has planned ones."""

from scipy import optimize, stats

from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.multiplicity import critical_value
from kelip_lightning.statistics.significance import Estimate

POWER = 0.8
"""Power below which a difference counts as found with low power."""


def power_at(estimate: Estimate, comparisons: int, size: float) -> float | None:
    """Probability that a study like this one finds a true difference, with its sign.

    The variance that was estimated is taken as the true one; the statistic has a non-central t distribution.

    Args:
        estimate: A paired difference.
        comparisons: Number of variants compared with the reference; the first step of Dunnett's correction.
        size: The true difference, > 0, in the outcomes' unit.

    Returns:
        In (0, 1); `None` without an interval or without any variance.
    """
    if not estimate.error or estimate.degrees is None:
        return None
    limit = critical_value(ALPHA, estimate.degrees, comparisons)
    return float(stats.nct.sf(limit, estimate.degrees, size / estimate.error))


def detectable_difference(estimate: Estimate, comparisons: int) -> float | None:
    """The smallest true difference that a study like this one finds with a power of `POWER`.

    A found difference below it is more likely than not larger than the true one, because only overestimates are
    significant (type M error; Gelman & Carlin 2014, Perspectives on Psychological Science 9(6), "Beyond power
    calculations").

    Args:
        estimate: A paired difference.
        comparisons: As in `power_at`.

    Returns:
        In the outcomes' unit; `None` without an interval.
    """
    if estimate.error is None or estimate.degrees is None:
        return None
    degrees, limit = estimate.degrees, critical_value(ALPHA, estimate.degrees, comparisons)
    found = optimize.brentq(lambda shift: stats.nct.sf(limit, degrees, shift) - POWER, 0.0, 10 + 3 * limit)
    return float(found) * estimate.error
