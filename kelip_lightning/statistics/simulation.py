"""Error rates and power of the rule in `significance`, over simulated studies.

Shapes: B simulated studies at a time, R = 1 + V runs of a seed (reference first), S seeds, G groups of items, K items
in a group.

An item's probability of a hit is its difficulty (a beta distribution with the mean `hit_rate`) + w x (change of the
variant on the item + effect of the run's seed + effect of the variant). The weight w is proportional to the variance of
a hit and has the mean 1, so probabilities stay in [0, 1] without shifting any mean. Studies with and without an effect
are drawn with the same random numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.interpolate import CubicSpline

from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.multiplicity import critical_value
from kelip_lightning.statistics.significance import (
    Floats,
    VarianceParts,
    error_of,
    pooled_seed_part,
    pooled_variance,
    variance_parts,
)

Singles = NDArray[np.float32]

EFFECTS = (0.0, 0.03, 0.05)
"""True differences of the grid."""
_CELLS = 2**23
"""Outcomes in memory at a time: 32 MiB an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStudy:
    """A study of hits on items; rates in [0, 1]."""

    num_variants: int = 5
    """Variants besides the reference."""
    num_seeds: int = 3
    num_items: int = 1000
    group_size: int = 1
    """Items in a group; they have one difficulty, and half of them the outcome of their group's first item."""
    hit_rate: float = 0.3
    """Mean probability of a hit."""
    seed_spread: float = 0.01
    """Standard deviation of a run's hit rate over seeds, without the sampling noise of the items."""
    last_spread: float = 1.0
    """Factor on the last variant's `seed_spread`; pooling assumes 1."""
    reference_spread: float = 1.0
    """Factor on the reference's."""
    item_spread: float = 0.05
    """Standard deviation over items of a variant's change of an item's probability; mean 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Fractions of the simulated studies."""

    false_winner: float
    """In which a variant without effect was better or worse."""
    found: float
    """In which the first variant was better (the power, if it has an effect)."""
    num_studies: int

    @property
    def error(self) -> float:
        """Standard error of `false_winner`."""
        return float((self.false_winner * (1 - self.false_winner) / self.num_studies) ** 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What a rule sees of B studies."""

    means: Floats
    """(B, R, S)."""
    parts: VarianceParts
    """Of the differences, each (B, V)."""

    @property
    def differences(self) -> Floats:
        """(B, V)."""
        means = self.means.mean(axis=2)
        differences: Floats = means[:, 1:] - means[:, :1]
        return differences


class Rule(Protocol):
    """Which differences (B, V) are better or worse."""

    def __call__(self, sample: _Sample) -> NDArray[np.bool_]: ...


def crossed(sample: _Sample) -> NDArray[np.bool_]:
    """The rule of `significance`."""
    pooled, degrees = pooled_variance(sample.means)[:, None], _pooled_degrees(sample)
    error, found = error_of(sample.parts, pooled_seed_part(sample.parts, pooled, degrees), degrees)
    statistics = sample.differences / np.where(error > 0, error, np.inf)
    return dunnett_rejects(statistics, found)


def dunnett_rejects(statistics: Floats, degrees: Floats) -> NDArray[np.bool_]:
    """Whether `multiplicity.dunnett` adjusts each p-value to less than `ALPHA`, of B families (B, V) at a time.

    Critical values are interpolated over the degrees of freedom, because a p-value takes 0.1 ms.
    """
    count = statistics.shape[1]
    order = np.argsort(special.stdtr(degrees, -np.abs(statistics)), axis=1)
    sizes, log_degrees = np.take_along_axis(np.abs(statistics), order, 1), np.take_along_axis(np.log(degrees), order, 1)
    beyond = np.empty(sizes.shape, dtype=bool)
    for place in range(count):
        beyond[:, place] = np.log(np.maximum(sizes[:, place], 1e-300)) > _critical(count - place)(log_degrees[:, place])
    rejected = np.empty_like(beyond)
    np.put_along_axis(rejected, order, np.logical_and.accumulate(beyond, axis=1), 1)
    return rejected


@cache
def _critical(comparisons: int) -> CubicSpline:
    """Logarithm of the critical value over that of the degrees of freedom."""
    grid = np.linspace(0.0, np.log(1e6), 140)
    return CubicSpline(grid, [np.log(critical_value(ALPHA, float(np.exp(one)), comparisons)) for one in grid])


def banerjee(sample: _Sample) -> NDArray[np.bool_]:
    """The rule before, kept for comparison alone: separate t quantiles of seed and item part (Banerjee 1961), and Holm.

    It counts the residual twice, and reports made by it are published.
    """
    parts, degrees, count = sample.parts, _pooled_degrees(sample), sample.differences.shape[1]
    seeds = np.maximum(parts.seeds, 2 * pooled_variance(sample.means)[:, None] / parts.num_seeds)
    rejected = np.zeros_like(seeds, dtype=bool)
    going = np.ones(len(seeds), dtype=bool)
    for done in range(count):
        tail = ALPHA / (count - done) / 2
        of_seeds, of_items = (special.stdtrit(one, 1 - tail) for one in (degrees, parts.num_groups - 1))
        limit = of_seeds**2 * seeds + of_items**2 * parts.items
        beyond = sample.differences**2 > limit
        going &= beyond.sum(axis=1) > done
        rejected[going] = beyond[going]
    return rejected


def simulate(
    study: SimulatedStudy,
    effects: Sequence[float] = (0.0,),
    num_studies: int = 1000,
    seed: int = 0,
    rule: Rule = crossed,
) -> list[Rates]:
    """Rates for each true difference of the first variant, over studies that each have their own items and seeds."""
    return simulate_sizes([study], effects, num_studies, seed, [rule])[0][0]


def simulate_sizes(
    studies: Sequence[SimulatedStudy],
    effects: Sequence[float],
    num_studies: int,
    seed: int = 0,
    rules: Sequence[Rule] = (crossed,),
) -> list[list[list[Rates]]]:
    """Rates of studies that differ in size alone, from the same draws: parts of one study of the largest size.

    Returns:
        For each study, for each rule, for each effect.
    """
    largest = replace(
        studies[0],
        num_variants=max(one.num_variants for one in studies),
        num_seeds=max(one.num_seeds for one in studies),
        num_items=max(one.num_items for one in studies),
    )
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS // ((1 + largest.num_variants) * largest.num_seeds * largest.num_items))
    counts = np.zeros((len(studies), len(rules), len(effects), 2))
    done = 0
    while done < num_studies:
        size = min(at_once, num_studies - done)
        tables = _draw(largest, effects, size, generator)
        for index, study in enumerate(studies):
            counts[index] += _count(_of_size(tables, study), effects, rules)
        done += size
    shares = counts / num_studies
    return [
        [[Rates(false_winner=one[0], found=one[1], num_studies=num_studies) for one in by_effect] for by_effect in rule]
        for rule in shares.tolist()
    ]


def _count(tables: tuple[Singles, list[Singles]], effects: Sequence[float], rules: Sequence[Rule]) -> Floats:
    """Numbers of studies with a false winner and of those that find the effect, (rules, effects, 2)."""
    counts = np.zeros((len(rules), len(effects), 2))
    for place, (effect, sample) in enumerate(zip(effects, _samples(*tables), strict=True)):
        for number, rule in enumerate(rules):
            rejected = rule(sample)
            null = rejected[:, 1:] if effect else rejected
            better = rejected[:, 0] & (sample.differences[:, 0] > 0)
            counts[number, place] += null.any(axis=1).sum(), better.sum()
    return counts


def _draw(
    study: SimulatedStudy, effects: Sequence[float], size: int, generator: np.random.Generator
) -> tuple[Singles, list[Singles]]:
    """Shares of hits in each group: of all runs without effect, and of the first variant's runs with each effect.

    Returns:
        (B, R, S, G), and for each effect (B, S, G).
    """
    runs, seeds, per_group = 1 + study.num_variants, study.num_seeds, study.group_size
    groups = study.num_items // per_group
    margin = min(0.1, study.hit_rate / 2)
    mean = (study.hit_rate - margin) / (1 - 2 * margin)
    difficulty = generator.beta(4 * mean, 4 * (1 - mean), (size, 1, 1, groups))
    difficulty = (margin + (1 - 2 * margin) * difficulty).astype(np.float32)
    weight = difficulty * (1 - difficulty)
    weight /= weight.mean()
    change = study.item_spread * generator.standard_normal((size, runs, 1, groups), dtype=np.float32)
    seed_effect = study.seed_spread * generator.standard_normal((size, runs, seeds, 1), dtype=np.float32)
    seed_effect[:, -1] *= study.last_spread
    seed_effect[:, 0] *= study.reference_spread
    seed_effect = np.clip(seed_effect, -0.9 * study.hit_rate, 0.9 * study.hit_rate)
    probability = difficulty + weight * (change + seed_effect)
    uniform = generator.random((size, runs, seeds, groups, per_group), dtype=np.float32)
    if per_group > 1:
        same = generator.random(uniform.shape, dtype=np.float32) < 0.5
        uniform = np.where(same, uniform[..., :1], uniform)
    hits = _shares(uniform, probability)
    shifted = [_shares(uniform[:, 1], probability[:, 1] + weight[:, 0] * np.float32(effect)) for effect in effects]
    return hits, shifted


def _shares(uniform: Singles, probability: Singles) -> Singles:
    shares: Singles = (uniform < probability[..., None]).mean(axis=-1, dtype=np.float32)
    return shares


def _of_size(tables: tuple[Singles, list[Singles]], study: SimulatedStudy) -> tuple[Singles, list[Singles]]:
    """The part of a larger study with this size; the last variant stays the last."""
    hits, shifted = tables
    seeds, groups = slice(study.num_seeds), slice(study.num_items // study.group_size)
    runs = [*range(study.num_variants), hits.shape[1] - 1]
    return hits[:, runs, seeds, groups], [one[:, seeds, groups] for one in shifted]


def _samples(hits: Singles, shifted: Sequence[Singles]) -> Iterator[_Sample]:
    """For each effect; only the first variant differs between them."""
    means = hits.mean(axis=3, dtype=np.float64)
    parts = variance_parts(hits[:, 1:] - hits[:, :1])
    for first in shifted:
        own = variance_parts(first - hits[:, 0])
        with_effect = means.copy()
        with_effect[:, 1] = first.mean(axis=2, dtype=np.float64)
        values = {}
        for name in ("seeds", "items", "residual"):
            values[name] = getattr(parts, name).copy()
            values[name][:, 0] = getattr(own, name)
        yield _Sample(means=with_effect, parts=replace(parts, **values))


def _pooled_degrees(sample: _Sample) -> int:
    return int(sample.differences.shape[1] * (sample.parts.num_seeds - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCell:
    """A simulated study with its rates for each of `EFFECTS`."""

    study: SimulatedStudy
    rates: list[Rates]
    before: list[Rates]
    """By the rule before."""


FAMILIES = tuple(
    SimulatedStudy(hit_rate=hit_rate, seed_spread=spread, last_spread=last, group_size=size)
    for hit_rate, spread, last, size in product((0.05, 0.3), (0.005, 0.02), (1.0, 2.0), (1, 5))
)
"""The kinds of study of the grid."""
SIZES = tuple(product((2, 5, 10), (2, 3, 5), (300, 1000, 3000)))
"""Variants, seeds and items of the grid."""


def simulate_family(family: SimulatedStudy, num_studies: int, seed: int = 0) -> list[GridCell]:
    """The cells of all sizes of one kind of study."""
    studies = [
        replace(family, num_variants=variants, num_seeds=seeds, num_items=items) for variants, seeds, items in SIZES
    ]
    found = simulate_sizes(studies, EFFECTS, num_studies, seed, (crossed, banerjee))
    return [
        GridCell(study=study, rates=after, before=before) for study, (after, before) in zip(studies, found, strict=True)
    ]
