"""Chance levels: the expected metrics of random embeddings.

Shapes: N images, M captions, K classes.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations
from math import comb

import torch

from data_modules.benchmarks.evaluation_sets import (
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    EvaluationSets,
    RetrievalSet,
)
from kelip_lightning.evaluation.metric_names import (
    CHOICE,
    IMAGE_TO_TEXT,
    MATCHED_MINUS_RANDOM,
    MEAN_PER_CLASS_RECALL,
    MEAN_RECALL,
    MEDIAN_RANK,
    RECALL_KS,
    TEXT_TO_IMAGE,
    TOP_KS,
    ZERO_SHOT,
    at_k,
    join_name,
)


def chance_levels(sets: EvaluationSets) -> dict[str, float]:
    """Expected metrics of random embeddings, under the names of the metrics."""
    levels: dict[str, float] = {}
    for one in sets:
        match one:
            case RetrievalSet():
                levels |= _retrieval_chance(one)
            case CaptionSet():
                levels |= _caption_chance(one)
            case ClassificationSet():
                levels |= _classification_chance(one)
            case ChoiceSet():
                task = join_name(one.name, one.language, CHOICE)
                levels[at_k(task, 1)] = sum(1 / len(texts) for texts in one.texts) / len(one.texts)
    return levels


def _retrieval_chance(data: RetrievalSet) -> dict[str, float]:
    levels: dict[str, float] = {}
    for language, captions in data.captions.items():
        recalls: dict[str, float] = {}
        medians: dict[str, float] = {}
        pairs = data.positives[language]
        for direction, column, size in ((IMAGE_TO_TEXT, 0, len(captions)), (TEXT_TO_IMAGE, 1, len(data.images))):
            counts = torch.unique(pairs[:, column], return_counts=True)[1].tolist()
            task = join_name(data.name, language, direction)
            recalls |= {at_k(task, k): _mean_chance(counts, size, k) for k in RECALL_KS}
            medians[f"{task}_{MEDIAN_RANK}"] = _median_chance(counts, size)
        levels |= recalls | medians
        levels[join_name(data.name, language, MEAN_RECALL)] = sum(recalls.values()) / len(recalls)
    return levels


def _caption_chance(data: CaptionSet) -> dict[str, float]:
    size = len(next(iter(data.captions.values())))
    levels = {
        at_k(join_name(data.name, None, f"{source}_to_{target}{suffix}"), k): min(1.0, k / size)
        for suffix in ("", "_centred")
        for source, target in permutations(data.captions, 2)
        for k in RECALL_KS
    }
    return levels | {join_name(data.name, None, MATCHED_MINUS_RANDOM): 0.0}


def _classification_chance(data: ClassificationSet) -> dict[str, float]:
    levels: dict[str, float] = {}
    for language, names in data.classes.names.items():
        task, size = join_name(data.name, language, ZERO_SHOT), sum(1 for own in names if own)
        levels |= {at_k(task, k): k / size for k in TOP_KS if k <= size}
        levels[join_name(data.name, language, MEAN_PER_CLASS_RECALL)] = 1 / size
    return levels


def _mean_chance(counts: Iterable[int], size: int, k: int) -> float:
    numbers = Counter(counts)
    total = sum(number * chance_of_any(count, size, k) for count, number in numbers.items())
    return total / sum(numbers.values())


def _median_chance(counts: Sequence[int], size: int) -> float:
    """The median, over queries and orders, of the rank from 1 of the first correct one among `size` items."""
    median = bisect_left(range(1, size), 0.5, key=lambda k: _mean_chance(counts, size, k)) + 1
    # Half of the ranks are at most k: the median lies between k and the next rank.
    return median + 0.5 if math.isclose(_mean_chance(counts, size, median), 0.5, rel_tol=1e-12) else float(median)


def chance_of_any(num_correct: int, num_items: int, k: int) -> float:
    """Probability that k items sampled from `num_items` include one of the `num_correct` correct ones."""
    return 1.0 - comb(num_items - num_correct, k) / comb(num_items, k) if k <= num_items else 1.0
