"""All evaluation sets of a run: items, metrics, and chance levels. Names: see `metric_names`.

Shapes: N items of a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import comb
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_modules.records import LANGUAGES
from kelip_lightning.evaluation.embed import Embeddings, ImageEncode, TextEncode, error_context
from kelip_lightning.evaluation.metric_names import (
    IMAGE_TO_TEXT,
    MATCHED_MINUS_RANDOM,
    MEAN_PER_CLASS_RECALL,
    MEDIAN_RANK,
    RECALL_KS,
    TEXT_TO_IMAGE,
    TOP_KS,
    ZERO_SHOT,
    at_k,
    join_name,
    split_name,
)
from kelip_lightning.evaluation.metrics import (
    class_embeddings,
    class_ranks,
    group_ranks,
    matched_minus_random,
    mean_per_class_recall,
    median_rank,
    recall_at,
    retrieval_ranks,
    top_k_accuracy,
)

if TYPE_CHECKING:
    from data_modules.benchmarks.evaluation_sets import CaptionSet, ClassificationSet, EvaluationSets, RetrievalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItems:
    """The items of one task."""

    task: str
    """Its name, as in `metric_names`."""
    outcomes: Tensor
    """(N,). int64: rank of the correct item, 0 is best; float64: the item's metric."""
    groups: Tensor
    """int64 (N,): items with the same correct item (class, caption) share a number."""
    texts: list[str]
    """N captions or class names: of the correct item, or of the query where the query is a text."""


def evaluate_sets(
    encode_images: ImageEncode, encode_texts: TextEncode, sets: EvaluationSets, batch_size: int = 256
) -> dict[str, float]:
    """Every metric of every set; texts and images that sets share are embedded once.

    Text -> image retrieval queries with the distinct target captions of a set; every image with that caption is
    correct.

    Args:
        encode_images: uint8 images (B, 3, H, W) -> (B, E).
        encode_texts: B texts -> (B, E).
        sets: Retrieval, caption and classification sets, images decoded.
        batch_size: Images per call of `encode_images`; texts per call: twice as many.

    Returns:
        Metric -> value.

    Raises:
        NonFiniteEmbeddingsError: Embeddings of a set hold NaN or infinity; names the set.
    """
    return metrics_of(Embeddings(encode_images, encode_texts, batch_size), sets)


def metrics_of(embeddings: Embeddings, sets: EvaluationSets) -> dict[str, float]:
    """As `evaluate_sets`, with cached embeddings."""
    num_classes = {
        join_name(data.name, language, ZERO_SHOT): len(names)
        for data in sets.classification
        for language, names in data.class_names.items()
    }
    metrics: dict[str, float] = {}
    for items in items_of(embeddings, sets):
        data_set, language, kind = split_name(items.task)
        if kind == ZERO_SHOT:
            tops = top_k_accuracy(items.outcomes, num_classes[items.task])
            metrics |= {at_k(items.task, k): top for k, top in tops.items()}
            recall = mean_per_class_recall(items.outcomes, items.groups)
            metrics[join_name(data_set, language, MEAN_PER_CLASS_RECALL)] = recall
        elif items.outcomes.is_floating_point():
            metrics[items.task] = items.outcomes.mean().item()
        else:
            metrics |= {at_k(items.task, k): recall for k, recall in recall_at(items.outcomes).items()}
        if kind == IMAGE_TO_TEXT:
            metrics[join_name(data_set, language, MEDIAN_RANK)] = median_rank(items.outcomes)
    return metrics


def items_of(embeddings: Embeddings, sets: EvaluationSets) -> list[TaskItems]:
    """Every item of every set.

    Raises:
        NonFiniteEmbeddingsError: Embeddings of a set hold NaN or infinity; names the set.
    """
    tasks: list[TaskItems] = []
    for retrieval_set in sets.retrieval:
        with error_context(f"evaluation set {retrieval_set.name}"):
            tasks += _retrieval_items(embeddings, retrieval_set)
    for caption_set in sets.captions:
        with error_context(f"evaluation set {caption_set.name}"):
            tasks += _caption_items(embeddings, caption_set)
    for classification_set in sets.classification:
        with error_context(f"evaluation set {classification_set.name}"):
            tasks += _classification_items(embeddings, classification_set)
    return tasks


def _retrieval_items(embeddings: Embeddings, data: RetrievalSet) -> Iterator[TaskItems]:
    """Per language: image -> text, one item per image; text -> image, one item per caption that has an image."""
    for language, captions in data.captions.items():
        images, gallery = embeddings.images(data.images, data.digests), embeddings.texts(captions)
        queries = torch.unique(data.target)
        yield TaskItems(
            task=join_name(data.name, language, IMAGE_TO_TEXT),
            outcomes=retrieval_ranks(images, gallery, data.target),
            groups=data.target,
            texts=[captions[index] for index in data.target.tolist()],
        )
        yield TaskItems(
            task=join_name(data.name, language, TEXT_TO_IMAGE),
            outcomes=group_ranks(gallery[queries], images, queries, data.target),
            groups=queries,
            texts=[captions[index] for index in queries.tolist()],
        )


def _caption_items(embeddings: Embeddings, data: CaptionSet) -> Iterator[TaskItems]:
    """Retrieval from each language's captions to each other's, and the similarity of translations."""
    features = {language: embeddings.texts(captions) for language, captions in data.captions.items()}
    for source, target in permutations(features, 2):
        indices = torch.arange(len(features[source]))
        yield TaskItems(
            task=join_name(data.name, None, f"{source}_to_{target}"),
            outcomes=retrieval_ranks(features[source], features[target], indices),
            groups=indices,
            texts=data.captions[source],
        )
    ko, en = (features[language] for language in LANGUAGES)
    yield TaskItems(
        task=join_name(data.name, None, MATCHED_MINUS_RANDOM),
        outcomes=matched_minus_random(ko, en),
        groups=torch.arange(len(ko)),
        texts=data.captions["ko"],
    )


def _classification_items(embeddings: Embeddings, data: ClassificationSet) -> Iterator[TaskItems]:
    for language, class_names in data.class_names.items():
        classes = class_embeddings(embeddings.texts, class_names, data.templates[language])
        yield TaskItems(
            task=join_name(data.name, language, ZERO_SHOT),
            outcomes=class_ranks(embeddings.images(data.images, data.digests), classes, data.labels),
            groups=data.labels,
            texts=[class_names[label][0] for label in data.labels.tolist()],
        )


def chance_levels(sets: EvaluationSets) -> dict[str, float]:
    """Expected metrics of random embeddings, under the same names."""
    levels: dict[str, float] = {}
    for retrieval_set in sets.retrieval:
        levels |= _retrieval_chance(retrieval_set)
    for caption_set in sets.captions:
        size = len(next(iter(caption_set.captions.values())))
        for source, target in permutations(caption_set.captions, 2):
            levels |= _recall_chance(join_name(caption_set.name, None, f"{source}_to_{target}"), size)
        levels[join_name(caption_set.name, None, MATCHED_MINUS_RANDOM)] = 0.0
    for data in sets.classification:
        for language, names in data.class_names.items():
            task, size = join_name(data.name, language, ZERO_SHOT), len(names)
            levels |= {at_k(task, k): k / size for k in TOP_KS if k <= size}
            levels[join_name(data.name, language, MEAN_PER_CLASS_RECALL)] = 1 / size
    return levels


def _recall_chance(task: str, size: int) -> dict[str, float]:
    return {at_k(task, k): min(1.0, k / size) for k in RECALL_KS}


def _retrieval_chance(data: RetrievalSet) -> dict[str, float]:
    correct_counts = torch.bincount(data.target)[torch.unique(data.target)].tolist()
    levels: dict[str, float] = {}
    for language, captions in data.captions.items():
        levels |= _recall_chance(join_name(data.name, language, IMAGE_TO_TEXT), len(captions))
        task = join_name(data.name, language, TEXT_TO_IMAGE)
        for k in RECALL_KS:
            chances = [_chance_of_any(count, len(data.images), k) for count in correct_counts]
            levels[at_k(task, k)] = sum(chances) / len(chances)
        levels[join_name(data.name, language, MEDIAN_RANK)] = (len(captions) + 1) / 2
    return levels


def _chance_of_any(num_correct: int, num_items: int, k: int) -> float:
    """Probability that k items sampled from `num_items` include one of the `num_correct` correct ones."""
    return 1.0 - comb(num_items - num_correct, k) / comb(num_items, k) if k <= num_items else 1.0
