"""Results of a study from the items of its runs: one row per metric, category of items and variant; examples."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kelip_lightning.errors import RunFolderError
from kelip_lightning.evaluation.metric_names import at_k, parse_metric, split_name
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.power import detectable_difference
from kelip_lightning.statistics.significance import (
    Estimate,
    SeedSpread,
    Verdict,
    adjusted_p_values,
    estimate_mean,
    paired_difference,
    pooled_spread,
    verdict,
)

ALL_ITEMS = "all"
NUM_EXAMPLES = 3
"""In favour of the variant and against it, for every judged metric and variant."""
KS = (1, 5)
"""The K of the reported metrics that are not judged."""

RunItems = Mapping[str, Mapping[int, Mapping[str, StoredItems]]]
"""Variant -> seed -> task -> items; reference first."""
Scores = Mapping[str, Mapping[int, NDArray[np.float64]]]
"""Variant -> seed -> (N,) values of the items; reference first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A metric of a variant and its difference from the reference's; `None`: unknown, or of the reference itself.

    In [0, 1], or for differences of cosines in [-2, 2].
    """

    metric: str
    items: str
    """`all`, or the category of the items."""
    variant: str
    judged: bool
    """Whether the study names the metric; the others are exploratory."""
    num_seeds: int
    num_items: int
    mean: float
    low: float | None
    high: float | None
    difference: float | None
    """Variant minus reference, over the seeds that both have."""
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    adjusted_p_value: float | None
    """Dunnett-adjusted for the number of variants of the same metric and items."""
    verdict: str | None
    """`better`, `worse` or `inconclusive`."""
    detectable: float | None
    """Smallest true difference that the study finds with a power of 80 %."""
    low_power: bool | None
    """Whether the difference is better or worse, and smaller than `detectable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An item whose rank differs much between a variant and the reference."""

    metric: str
    variant: str
    text: str
    """The item's text, as in `TaskItems.texts`."""
    reference_rank: float
    """Median over the seeds that both have, counted from 1."""
    rank: float
    """The variant's."""

    @property
    def is_better(self) -> bool:
        """Whether the variant ranks the correct item higher."""
        return self.rank < self.reference_rank


def compute_results(
    runs: RunItems, judged: Sequence[str], categories: Mapping[str, Mapping[str, Sequence[str]]]
) -> list[Result]:
    """Every metric over all items; judged metrics also over the items of each category.

    Args:
        runs: Items of the finished runs, reference first.
        judged: Metrics that the study names.
        categories: Category -> language -> words.

    Raises:
        RunFolderError: The runs were evaluated on different items, or lack a judged metric.
    """
    tasks = _shared_tasks(runs)
    metrics = list(dict.fromkeys([*judged, *(metric for task, one in tasks.items() for metric in _metrics(task, one))]))
    results: list[Result] = []
    for metric in metrics:
        task, k = parse_metric(metric)
        if task not in tasks:
            raise RunFolderError(f"no run has the items of {metric}; the tasks are {', '.join(sorted(tasks))}")
        kinds = {ALL_ITEMS: np.ones(len(tasks[task].texts), dtype=bool)}
        if metric in judged:
            kinds |= _masks(tasks[task].texts, split_name(task)[1], categories)
        for kind, mask in kinds.items():
            scores = {
                variant: {seed: item_scores(items[task].outcomes[mask], k) for seed, items in by_seed.items()}
                for variant, by_seed in runs.items()
            }
            results += _compare(metric, kind, metric in judged, scores, tasks[task].groups[mask])
    return results


def matches(text: str, language: str | None, words: Sequence[str]) -> bool:
    """Whether a caption contains a word: as a whole word in English, as a substring in Korean, which inflects."""
    if language == "ko":
        return any(word in text for word in words)
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def _shared_tasks(runs: RunItems) -> Mapping[str, StoredItems]:
    """The tasks and items of the first run, which must be those of all."""
    every = [(f"{variant}, seed {seed}", tasks) for variant, by_seed in runs.items() for seed, tasks in by_seed.items()]
    if not every:
        raise RunFolderError("no run has finished, so there is nothing to report")
    first_name, first = every[0]
    for name, tasks in every[1:]:
        same = tasks.keys() == first.keys() and all(
            items.texts == first[task].texts and np.array_equal(items.groups, first[task].groups)
            for task, items in tasks.items()
        )
        if not same:
            raise RunFolderError(
                f"{name} was evaluated on other items than {first_name}, so they cannot be paired; give all variants "
                "the same evaluation sets"
            )
    return first


def _compare(
    metric: str,
    kind: str,
    judged: bool,
    hits: Scores,
    groups: NDArray[np.int64],
) -> list[Result]:
    means = {variant: estimate_mean(_stack(by_seed, by_seed), groups) for variant, by_seed in hits.items() if by_seed}
    differences = differences_of(hits, groups)
    adjusted = dict(zip(differences, adjusted_p_values(list(differences.values())), strict=True))
    comparisons = max(1, sum(one.p_value is not None for one in differences.values()))
    lowest, highest = (-2.0, 2.0) if parse_metric(metric)[1] is None else (0.0, 1.0)
    results = []
    for variant, mean in means.items():
        difference, p_value = differences.get(variant), adjusted.get(variant)
        found = verdict(difference, p_value) if difference else None
        detectable = detectable_difference(difference, comparisons) if difference else None
        results.append(
            Result(
                metric=metric,
                items=kind,
                variant=variant,
                judged=judged,
                num_seeds=mean.num_seeds,
                num_items=mean.num_items,
                mean=mean.mean,
                low=None if mean.low is None else max(lowest, mean.low),
                high=None if mean.high is None else min(highest, mean.high),
                difference=difference.mean if difference else None,
                difference_low=difference.low if difference else None,
                difference_high=difference.high if difference else None,
                p_value=difference.p_value if difference else None,
                adjusted_p_value=p_value,
                verdict=found.value if found else None,
                detectable=detectable,
                low_power=_is_low_power(found, difference.mean, detectable) if found and difference else None,
            )
        )
    return results


def differences_of(scores: Scores, groups: NDArray[np.int64], spread: SeedSpread | None = None) -> dict[str, Estimate]:
    """Each variant's difference from the reference over the seeds that both have; the seed part is pooled.

    Args:
        scores: Reference first. Variants without a common seed are left out.
        groups: (N,) numbers; items with the same one are dependent.
        spread: Of the study's runs; `None`: that of these.
    """
    reference, *others = scores
    spread = spread or spread_of(scores)
    differences: dict[str, Estimate] = {}
    for variant in others:
        common = [seed for seed in scores[variant] if seed in scores[reference]]
        if common:
            pair = _stack(scores[variant], common), _stack(scores[reference], common)
            differences[variant] = paired_difference(*pair, groups, spread)
    return differences


def _is_low_power(found: Verdict, difference: float, detectable: float | None) -> bool:
    return found is not Verdict.inconclusive and detectable is not None and abs(difference) < detectable


def _stack(by_seed: Mapping[int, NDArray[np.float64]], seeds: Iterable[int]) -> NDArray[np.float64]:
    return np.stack([by_seed[seed] for seed in seeds])


def spread_of(scores: Scores) -> SeedSpread | None:
    """Of the runs of a study, over the seeds that all variants with at least two seeds have."""
    several = [by_seed for by_seed in scores.values() if len(by_seed) > 1]
    common = [seed for seed in (several[0] if several else ()) if all(seed in by_seed for by_seed in several)]
    means = [[float(by_seed[seed].mean()) for seed in common] for by_seed in several]
    return pooled_spread(np.array(means)) if common else None


def category_mask(texts: Sequence[str], language: str | None, words: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
    """(N,): the texts that contain one of a category's words, given for each language."""
    return np.array([matches(text, language, words.get(language or "", ())) for text in texts], dtype=bool)


def _masks(
    texts: Sequence[str], language: str | None, categories: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, NDArray[np.bool_]]:
    """Category -> its items; categories with fewer than two items are omitted."""
    found = {category: category_mask(texts, language, words) for category, words in categories.items()}
    return {category: mask for category, mask in found.items() if mask.sum() > 1}


def _metrics(task: str, items: StoredItems) -> list[str]:
    """The metrics of a task: itself, or if its outcomes are ranks one per K."""
    if items.outcomes.dtype.kind == "f":
        return [task]
    return [at_k(task, k) for k in KS]


def item_scores(outcomes: NDArray[Any], k: int | None) -> NDArray[np.float64]:
    """Values to average: ranks as hits (rank below K), metrics unchanged."""
    return (outcomes if k is None else outcomes < k).astype(float)


def find_examples(runs: RunItems, judged: Sequence[str], count: int = NUM_EXAMPLES) -> list[Example]:
    """The items with the largest ratios of ranks between each variant and the reference, per judged metric of ranks.

    They are selected extremes: they illustrate a difference and do not estimate its size.

    Args:
        runs: Items of the finished runs, reference first, all of the same evaluation.
        judged: Metrics that the study names.
        count: Maximum number of items in favour of the variant, and against it.
    """
    reference, *others = runs
    examples: list[Example] = []
    for metric in judged:
        task, k = parse_metric(metric)
        for variant in others:
            seeds = [seed for seed in runs[variant] if seed in runs[reference]]
            if k is not None and seeds:
                ranks, reference_ranks = (_median_ranks(runs[one], seeds, task) for one in (variant, reference))
                texts = runs[variant][seeds[0]][task].texts
                examples += [
                    Example(
                        metric=metric,
                        variant=variant,
                        text=texts[item],
                        reference_rank=float(reference_ranks[item]),
                        rank=float(ranks[item]),
                    )
                    for item in _extremes(np.log(ranks / reference_ranks), count)
                ]
    return examples


def _median_ranks(
    by_seed: Mapping[int, Mapping[str, StoredItems]], seeds: Sequence[int], task: str
) -> NDArray[np.float64]:
    return np.median([by_seed[seed][task].outcomes + 1 for seed in seeds], axis=0)


def _extremes(ratios: NDArray[np.float64], count: int) -> list[int]:
    """Items with the lowest log ratios below zero, then the highest above; stable order among ties."""
    order = np.argsort(ratios, kind="stable")
    highest = np.argsort(-ratios, kind="stable")
    return [
        *(int(item) for item in order[:count] if ratios[item] < 0),
        *(int(item) for item in highest[:count] if ratios[item] > 0),
    ]
