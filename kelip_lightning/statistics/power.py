"""How often the rule of `significance` names a false winner, and how often it finds a true one: simulated studies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelip_lightning.statistics.significance import Verdict, holm, paired_difference, pooled_spread, verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study of hits on items; shares as fractions of 1."""

    num_variants: int = 5
    """Variants beside the base."""
    num_seeds: int = 3
    num_items: int = 1000
    hit_rate: float = 0.3
    """Mean probability of a hit; items differ, from nearly 0 to nearly 1."""
    seed_spread: float = 0.01
    """Standard deviation of a run's hit rate over seeds, beside the chance of the items."""
    last_spread: float = 1.0
    """Factor on the last variant's `seed_spread`: pooling assumes that it is 1."""
    item_spread: float = 0.1
    """Standard deviation, over items, of what a variant changes in an item's probability; its mean is 0."""
    effect: float = 0.0
    """By how much the first variant's hit rate is truly higher than the others'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Shares of the simulated studies."""

    false_winner: float
    """A variant without any effect was called better or worse."""
    found: float
    """The first variant was called better (power, if it has an effect)."""


def simulate(study: Study, num_studies: int = 1000, seed: int = 0) -> Rates:
    """Draw studies, each with its own items and seeds, and judge them by the rule."""
    generator = np.random.default_rng(seed)
    false_winner = found = 0
    for _ in range(num_studies):
        verdicts = _judge(_outcomes(study, generator))
        idle = verdicts[1:] if study.effect else verdicts
        false_winner += any(one is not Verdict.cannot_tell for one in idle)
        found += verdicts[0] is Verdict.better
    return Rates(false_winner=false_winner / num_studies, found=found / num_studies)


def _outcomes(study: Study, generator: np.random.Generator) -> NDArray[np.float64]:
    """Hits (1 + variants, S, N), base first."""
    runs = 1 + study.num_variants
    # Beta(4 p, 4 (1 - p)) squeezed, so that the changes below rarely have to be cut at 0 and 1.
    difficulty = 0.1 + 0.8 * generator.beta(4 * study.hit_rate, 4 * (1 - study.hit_rate), study.num_items)
    changed = generator.normal(0, study.item_spread, (runs, 1, study.num_items))
    lucky = generator.normal(0, study.seed_spread, (runs, study.num_seeds, 1))
    lucky[-1] *= study.last_spread
    gain = np.zeros((runs, 1, 1))
    gain[1] = study.effect
    probability = np.clip(difficulty + changed + lucky + gain, 0, 1)
    return (generator.random(probability.shape) < probability).astype(float)


def _judge(hits: NDArray[np.float64]) -> list[Verdict]:
    spread = pooled_spread(hits.mean(axis=2))
    differences = [paired_difference(variant, hits[0], spread=spread) for variant in hits[1:]]
    adjusted = holm([one.p_value for one in differences])
    return [verdict(one, p) for one, p in zip(differences, adjusted, strict=True)]
