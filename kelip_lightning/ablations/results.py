"""From the items of a study's runs to its results: one row per metric, kind of item and variant."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kelip_lightning.errors import RunFolderError
from kelip_lightning.evaluation.metric_names import at_k, parse_metric, split_name
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.significance import (
    Estimate,
    SeedSpread,
    estimate,
    holm,
    paired_difference,
    pooled_spread,
    verdict,
)

ALL_ITEMS = "all"
KS = (1, 5)
"""The K at which every task is counted, beside those that are judged."""

RunItems = Mapping[str, Mapping[int, Mapping[str, StoredItems]]]
"""Variant -> seed -> task -> items; the reference comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A metric of a variant over some items, and how it differs from the reference's.

    A share in [0, 1], or a difference of cosines in [-2, 2].
    """

    metric: str
    items: str
    """`all`, or the category whose words the items name."""
    variant: str
    judged: bool
    """Whether the study names the metric as one that decides; other verdicts are for orientation."""
    num_seeds: int
    num_items: int
    mean: float
    low: float | None
    high: float | None
    difference: float | None
    """Variant less reference, over the seeds that both have; none for the reference."""
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    adjusted_p_value: float | None
    """Corrected for the number of variants of the same metric and items."""
    verdict: str | None
    """`better`, `worse` or `cannot tell`; none for the reference."""


def compute_results(
    runs: RunItems, judged: Sequence[str], categories: Mapping[str, Mapping[str, Sequence[str]]]
) -> list[Result]:
    """Every metric over all items; those that are judged over the items of each category too.

    Args:
        runs: Items of the finished runs, reference first.
        judged: Metrics that decide.
        categories: Category -> language -> words.

    Raises:
        RunFolderError: The runs were evaluated on different items, or lack a judged metric.
    """
    tasks = _shared_tasks(runs)
    wanted = list(dict.fromkeys([*judged, *(metric for task, one in tasks.items() for metric in _metrics(task, one))]))
    results: list[Result] = []
    for metric in wanted:
        task, k = parse_metric(metric)
        if task not in tasks:
            raise RunFolderError(f"no run has the items of {metric}; the tasks are {', '.join(sorted(tasks))}")
        kinds = {ALL_ITEMS: np.ones(len(tasks[task].texts), dtype=bool)}
        if metric in judged:
            kinds |= _masks(tasks[task].texts, split_name(task)[1], categories)
        for kind, mask in kinds.items():
            scores = {
                variant: {seed: _scores(items[task].outcomes[mask], k) for seed, items in by_seed.items()}
                for variant, by_seed in runs.items()
            }
            results += _compare(metric, kind, metric in judged, scores, tasks[task].groups[mask])
    return results


def matches(text: str, language: str | None, words: Sequence[str]) -> bool:
    """Whether a caption names one of the words: whole words in English, any place in Korean, which inflects."""
    if language == "ko":
        return any(word in text for word in words)
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def _shared_tasks(runs: RunItems) -> Mapping[str, StoredItems]:
    """The tasks of the first run, which must be those of all."""
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
    hits: Mapping[str, Mapping[int, NDArray[np.float64]]],
    groups: NDArray[np.int64],
) -> list[Result]:
    means = {variant: estimate(_stack(by_seed, by_seed), groups) for variant, by_seed in hits.items() if by_seed}
    reference, *others = hits
    spread = _spread(hits)
    differences: dict[str, Estimate] = {}
    for variant in others:
        common = [seed for seed in hits[variant] if seed in hits[reference]]
        if common:
            pair = _stack(hits[variant], common), _stack(hits[reference], common)
            differences[variant] = paired_difference(*pair, groups, spread)
    adjusted = dict(zip(differences, holm([one.p_value for one in differences.values()]), strict=True))
    return [
        _result(metric, kind, variant, judged, mean, differences.get(variant), adjusted.get(variant))
        for variant, mean in means.items()
    ]


def _stack(
    by_seed: Mapping[int, NDArray[np.float64]], seeds: "Sequence[int] | Mapping[int, object]"
) -> NDArray[np.float64]:
    return np.stack([by_seed[seed] for seed in seeds])


def _spread(hits: Mapping[str, Mapping[int, NDArray[np.float64]]]) -> SeedSpread | None:
    """From the seeds that all variants with at least two of them have finished."""
    several = [by_seed for by_seed in hits.values() if len(by_seed) > 1]
    common = [seed for seed in (several[0] if several else ()) if all(seed in by_seed for by_seed in several)]
    means = [[float(by_seed[seed].mean()) for seed in common] for by_seed in several]
    return pooled_spread(np.array(means)) if common else None


def _result(
    metric: str,
    kind: str,
    variant: str,
    judged: bool,
    mean: Estimate,
    difference: Estimate | None,
    adjusted: float | None,
) -> Result:
    lowest, highest = (-2.0, 2.0) if parse_metric(metric)[1] is None else (0.0, 1.0)
    return Result(
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
        adjusted_p_value=adjusted,
        verdict=verdict(difference, adjusted).value if difference else None,
    )


def _masks(
    texts: Sequence[str], language: str | None, categories: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, NDArray[np.bool_]]:
    """Category -> its items; categories that fewer than two items name are left out."""
    found = {
        category: np.array([matches(text, language, words.get(language or "", ())) for text in texts], dtype=bool)
        for category, words in categories.items()
    }
    return {category: mask for category, mask in found.items() if mask.sum() > 1}


def _metrics(task: str, items: StoredItems) -> list[str]:
    """A task's metrics: at every K where its outcomes are ranks."""
    if items.outcomes.dtype.kind == "f":
        return [task]
    return [at_k(task, k) for k in KS]


def _scores(outcomes: NDArray[Any], k: int | None) -> NDArray[np.float64]:
    """What is averaged: 1 for a rank below K and 0 for others; outcomes that are metrics as they are."""
    return (outcomes if k is None else outcomes < k).astype(float)
