"""Which items a variant gets right that the reference does not, and the other way round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelip_lightning.ablations.results import RunItems
from kelip_lightning.evaluation.metric_names import parse_metric
from kelip_lightning.runs.items import StoredItems

NUM_EXAMPLES = 3
"""Of either kind, for every judged metric and variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An item whose rank differs much between a variant and the reference."""

    metric: str
    variant: str
    text: str
    """What the right answer, or the question, says in words."""
    reference_rank: float
    """Median over the seeds that both have, counted from 1."""
    rank: float
    """The variant's."""

    @property
    def is_better(self) -> bool:
        """Whether the variant puts the right answer further to the front."""
        return self.rank < self.reference_rank


def find_examples(runs: RunItems, judged: Sequence[str], count: int = NUM_EXAMPLES) -> list[Example]:
    """The items whose ranks part furthest, as a ratio, for every judged metric that counts ranks and every variant.

    They are extremes, chosen by what they show: they say what a difference may look like, not how large it is.

    Args:
        runs: Items of the finished runs, reference first, all of the same evaluation.
        judged: Metrics that decide.
        count: Items at most in favour of the variant, and as many against it.
    """
    reference, *others = runs
    found: list[Example] = []
    for metric in judged:
        task, k = parse_metric(metric)
        for variant in others:
            seeds = [seed for seed in runs[variant] if seed in runs[reference]]
            if k is not None and seeds:
                ranks, reference_ranks = (_median_ranks(runs[one], seeds, task) for one in (variant, reference))
                texts = runs[variant][seeds[0]][task].texts
                found += [
                    Example(
                        metric=metric,
                        variant=variant,
                        text=texts[item],
                        reference_rank=float(reference_ranks[item]),
                        rank=float(ranks[item]),
                    )
                    for item in _extremes(np.log(ranks / reference_ranks), count)
                ]
    return found


def _median_ranks(
    by_seed: Mapping[int, Mapping[str, StoredItems]], seeds: Sequence[int], task: str
) -> NDArray[np.float64]:
    return np.median([by_seed[seed][task].outcomes + 1 for seed in seeds], axis=0)


def _extremes(ratios: NDArray[np.float64], count: int) -> list[int]:
    """The items with the lowest ratios below zero, then those with the highest above; the first ones among equals."""
    order = np.argsort(ratios, kind="stable")
    highest = np.argsort(-ratios, kind="stable")
    return [
        *(int(item) for item in order[:count] if ratios[item] < 0),
        *(int(item) for item in highest[:count] if ratios[item] > 0),
    ]
