"""Decides the claims that a study states beforehand: one test per variant, over the items of the claim's metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelip_lightning.ablations.config import ClaimConfig, Direction
from kelip_lightning.ablations.results import (
    RunItems,
    Scores,
    category_mask,
    differences_of,
    item_scores,
    spread_of,
)
from kelip_lightning.evaluation.metric_names import Unit, parse_metric, split_name, unit_of
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.power import power_at
from kelip_lightning.statistics.significance import Estimate, Verdict, adjusted_p_values, verdict

_PLUS = " + "
CONFIRMED, CONTRADICTED, INCONCLUSIVE = "confirmed", "contradicted", "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """A claim about one variant; values in the metrics' own unit, shares in [0, 1]; `None`: unknown."""

    claim: str
    variant: str
    """Or the names of the claim's variants, joined by ` + `, if they are taken together."""
    category: str | None
    """Of the items; `None`: all items."""
    metrics: str
    """Joined by a space."""
    direction: str
    """`higher` or `lower`: the expectation."""
    verdict: str | None
    """`confirmed`: significant in the expected direction; `contradicted`: in the other; `inconclusive`; `None`: no run
    of the variant has finished."""
    num_seeds: int | None
    num_items: int | None
    difference: float | None
    """Variant minus reference, over the seeds that both have and the items of all metrics."""
    difference_low: float | None
    """Lower end of the 95 % interval."""
    difference_high: float | None
    p_value: float | None
    adjusted_p_value: float | None
    """Dunnett-adjusted for the claim's variants."""
    smallest: float | None
    """The true difference that the study states."""
    power: float | None
    """Probability that a study with these variances finds it."""


def decide_claims(
    runs: RunItems,
    claims: Mapping[str, ClaimConfig],
    compared: Sequence[str],
    categories: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[ClaimResult]:
    """Every claim for each of its variants, or for the mean of all of them.

    The seed part of the variance is pooled over all runs of the study; the correction is for the claim's comparisons.

    Args:
        runs: Items of the finished runs, reference first, all of the same evaluation.
        claims: Name -> claim, whose metrics all runs have.
        compared: All variants besides the reference, for claims that name none.
        categories: Category -> language -> words, as in `AblationConfig.categories`.
    """
    results: list[ClaimResult] = []
    for name, claim in claims.items():
        keep = _kept_items(runs, claim, categories)
        scores = {
            variant: {seed: _scores(items, claim.metrics)[keep] for seed, items in by_seed.items()}
            for variant, by_seed in runs.items()
        }
        groups = _groups(runs, claim.metrics)[keep]
        spread = spread_of(scores) if len(groups) > 1 else None
        variants = claim.variants or list(compared)
        if claim.together:
            spread = spread and spread.of_group(len(variants))
            scores, variants = _together(scores, variants)
        found = differences_of(scores, groups, spread) if len(groups) > 1 else {}
        differences = {variant: found[variant] for variant in variants if variant in found}
        adjusted = dict(zip(differences, adjusted_p_values(list(differences.values())), strict=True))
        comparisons = max(1, sum(one.p_value is not None for one in differences.values()))
        results += [
            _result(name, claim, variant, differences.get(variant), adjusted.get(variant), comparisons)
            for variant in variants
        ]
    return results


def _together(scores: Scores, variants: Sequence[str]) -> tuple[dict[str, dict[int, NDArray[np.float64]]], list[str]]:
    """The scores of the reference and of the mean of the variants, over the seeds that all have; the mean's name."""
    reference, name = next(iter(scores)), _PLUS.join(variants)
    seeds = [seed for seed in scores[reference] if all(seed in scores.get(one, {}) for one in variants)]
    mean = {seed: np.mean([scores[one][seed] for one in variants], axis=0) for seed in seeds}
    return {reference: dict(scores[reference]), name: mean}, [name]


def _result(
    name: str,
    claim: ClaimConfig,
    variant: str,
    difference: Estimate | None,
    adjusted: float | None,
    comparisons: int,
) -> ClaimResult:
    scale = 100.0 if unit_of(claim.metrics[0]) is Unit.share else 1.0
    smallest = None if claim.smallest is None else claim.smallest / scale
    return ClaimResult(
        claim=name,
        variant=variant,
        category=claim.category,
        metrics=" ".join(claim.metrics),
        direction=claim.direction.value,
        verdict=_word(verdict(difference, adjusted), claim.direction) if difference else None,
        num_seeds=difference.num_seeds if difference else None,
        num_items=difference.num_items if difference else None,
        difference=difference.mean if difference else None,
        difference_low=difference.low if difference else None,
        difference_high=difference.high if difference else None,
        p_value=difference.p_value if difference else None,
        adjusted_p_value=adjusted,
        smallest=smallest,
        power=power_at(difference, comparisons, smallest) if difference and smallest is not None else None,
    )


def _word(found: Verdict, expected: Direction) -> str:
    if found is Verdict.inconclusive:
        return INCONCLUSIVE
    return CONFIRMED if (found is Verdict.better) is (expected is Direction.higher) else CONTRADICTED


def _scores(items: Mapping[str, StoredItems], metrics: Sequence[str]) -> NDArray[np.float64]:
    """(N,): the items of all metrics, one metric after another."""
    parsed = [parse_metric(metric) for metric in metrics]
    return np.concatenate([item_scores(items[task].outcomes, k) for task, k in parsed])


def _kept_items(
    runs: RunItems, claim: ClaimConfig, categories: Mapping[str, Mapping[str, Sequence[str]]]
) -> NDArray[np.bool_]:
    """(N,): the items of the claim's category, in the order of `_scores`."""
    first, kept = _first_items(runs), []
    for metric in claim.metrics:
        task, _ = parse_metric(metric)
        texts = first[task].texts
        words = None if claim.category is None else categories[claim.category]
        kept.append(
            np.ones(len(texts), dtype=bool) if words is None else category_mask(texts, split_name(task)[1], words)
        )
    return np.concatenate(kept)


def _groups(runs: RunItems, metrics: Sequence[str]) -> NDArray[np.int64]:
    """(N,): items with the same number are one group in all metrics; both languages of a set number concepts alike."""
    first = _first_items(runs)
    return np.concatenate([first[parse_metric(metric)[0]].groups for metric in metrics])


def _first_items(runs: RunItems) -> Mapping[str, StoredItems]:
    return next(items for by_seed in runs.values() for items in by_seed.values())
