"""Decides the claims that a study states beforehand: one test per variant, over the items of the claim's metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelip_lightning.ablations.config import ClaimConfig, Direction
from kelip_lightning.ablations.results import RunItems, differences_of, item_scores
from kelip_lightning.evaluation.metric_names import Unit, parse_metric, unit_of
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.power import power_at
from kelip_lightning.statistics.significance import Estimate, Verdict, adjusted_p_values, verdict

CONFIRMED, CONTRADICTED, INCONCLUSIVE = "confirmed", "contradicted", "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """A claim about one variant; values in the metrics' own unit, shares in [0, 1]; `None`: unknown."""

    claim: str
    variant: str
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


def decide_claims(runs: RunItems, claims: Mapping[str, ClaimConfig], compared: Sequence[str]) -> list[ClaimResult]:
    """Every claim for each of its variants.

    The seed part of the variance is pooled over all runs of the study; the correction is for the claim's variants.

    Args:
        runs: Items of the finished runs, reference first, all of the same evaluation.
        claims: Name -> claim, whose metrics all runs have.
        compared: All variants besides the reference, for claims that name none.
    """
    results: list[ClaimResult] = []
    for name, claim in claims.items():
        scores = {
            variant: {seed: _scores(items, claim.metrics) for seed, items in by_seed.items()}
            for variant, by_seed in runs.items()
        }
        variants = claim.variants or list(compared)
        differences = {
            variant: one
            for variant, one in differences_of(scores, _groups(runs, claim.metrics)).items()
            if variant in variants
        }
        adjusted = dict(zip(differences, adjusted_p_values(list(differences.values())), strict=True))
        comparisons = max(1, sum(one.p_value is not None for one in differences.values()))
        results += [
            _result(name, claim, variant, differences.get(variant), adjusted.get(variant), comparisons)
            for variant in variants
        ]
    return results


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


def _groups(runs: RunItems, metrics: Sequence[str]) -> NDArray[np.int64]:
    """(N,): items with the same number are one group in all metrics; both languages of a set number concepts alike."""
    first = next(items for by_seed in runs.values() for items in by_seed.values())
    return np.concatenate([first[parse_metric(metric)[0]].groups for metric in metrics])
