"""Power of the rule in `significance`: of a study that was run, by formula, and of planned ones, by simulation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.significance import (
    Estimate,
    Verdict,
    half_width,
    holm,
    paired_difference,
    pooled_spread,
    verdict,
)

POWER = 0.8
"""Power below which a difference counts as found with low power."""


def detectable_difference(estimate: Estimate, comparisons: int) -> float | None:
    """The smallest true difference that a study like this one finds with a power of `POWER`.

    A found difference below it is more likely than not larger than the true one, because only overestimates are
    significant (type M error; Gelman & Carlin 2014, Perspectives on Psychological Science 9(6), "Beyond power
    calculations"). A normal distribution with the estimated variances is assumed.

    Args:
        estimate: A paired difference.
        comparisons: Number of variants compared with the reference; Holm's first step tests at `ALPHA` over it.

    Returns:
        In the outcomes' unit; `None` without an interval.
    """
    if not estimate.parts:
        return None
    error = sum(variance for variance, _ in estimate.parts) ** 0.5
    found: float = half_width(estimate.parts, ALPHA / comparisons) + float(stats.norm.ppf(POWER)) * error
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStudy:
    """A study of hits on items; rates in [0, 1]."""

    num_variants: int = 5
    """Variants besides the reference."""
    num_seeds: int = 3
    num_items: int = 1000
    hit_rate: float = 0.3
    """Mean probability of a hit; items range from nearly 0 to nearly 1."""
    seed_spread: float = 0.01
    """Standard deviation of a run's hit rate over seeds, without the sampling noise of the items."""
    last_spread: float = 1.0
    """Factor on the last variant's `seed_spread`; pooling assumes 1."""
    item_spread: float = 0.1
    """Standard deviation over items of a variant's change of an item's probability; mean 0."""
    effect: float = 0.0
    """True difference of the first variant's hit rate from the others'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Fractions of the simulated studies."""

    false_winner: float
    """In which a variant without effect was better or worse."""
    found: float
    """In which the first variant was better (the power, if it has an effect)."""


def simulate(study: SimulatedStudy, num_studies: int = 1000, seed: int = 0) -> Rates:
    """Simulate studies, each with its own items and seeds, and apply the rule."""
    generator = np.random.default_rng(seed)
    false_winner = found = 0
    for _ in range(num_studies):
        verdicts = _verdicts(_outcomes(study, generator))
        null = verdicts[1:] if study.effect else verdicts
        false_winner += any(one is not Verdict.inconclusive for one in null)
        found += verdicts[0] is Verdict.better
    return Rates(false_winner=false_winner / num_studies, found=found / num_studies)


def _outcomes(study: SimulatedStudy, generator: np.random.Generator) -> NDArray[np.float64]:
    """Hits (1 + variants, S, N), reference first."""
    runs = 1 + study.num_variants
    # Beta(4 p, 4 (1 - p)), scaled to [0.1, 0.9] so that the changes below are rarely clipped at 0 and 1.
    difficulty = 0.1 + 0.8 * generator.beta(4 * study.hit_rate, 4 * (1 - study.hit_rate), study.num_items)
    changed = generator.normal(0, study.item_spread, (runs, 1, study.num_items))
    seed_effect = generator.normal(0, study.seed_spread, (runs, study.num_seeds, 1))
    seed_effect[-1] *= study.last_spread
    gain = np.zeros((runs, 1, 1))
    gain[1] = study.effect
    probability = np.clip(difficulty + changed + seed_effect + gain, 0, 1)
    return (generator.random(probability.shape) < probability).astype(float)


def _verdicts(hits: NDArray[np.float64]) -> list[Verdict]:
    spread = pooled_spread(hits.mean(axis=2))
    differences = [paired_difference(variant, hits[0], spread=spread) for variant in hits[1:]]
    adjusted = holm([one.p_value for one in differences])
    return [verdict(one, p) for one, p in zip(differences, adjusted, strict=True)]
