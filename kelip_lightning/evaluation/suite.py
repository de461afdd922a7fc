"""All evaluation sets of a run in one call, and what guessing would score on them.

Keys, R@K in [0, 1] with K of 1, 5, 10; matched_minus_random is a difference of cosines:
    eval/<retrieval set>_<language>/image_to_text_R@K, text_to_image_R@K, median_rank
    eval/<caption set>/<language>_to_<language>_R@K, matched_minus_random
    eval/<classification set>_<language>/zero_shot_top1, zero_shot_top5, mean_per_class_recall
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import comb
from typing import TYPE_CHECKING

import torch

from kelip_lightning.evaluation.embed import Embeddings, ImageEncode, TextEncode
from kelip_lightning.evaluation.finite import naming
from kelip_lightning.evaluation.items import caption_items, retrieval_items
from kelip_lightning.evaluation.retrieval import RECALL_KS, median_rank, recall_at
from kelip_lightning.evaluation.tasks import MATCHED_MINUS_RANDOM
from kelip_lightning.evaluation.zero_shot import accuracy, class_embeddings, mean_per_class_recall

if TYPE_CHECKING:
    from data_modules.benchmarks.evaluation_sets import CaptionSet, ClassificationSet, EvaluationSets, RetrievalSet


def evaluate_sets(
    encode_images: ImageEncode, encode_texts: TextEncode, sets: EvaluationSets, batch_size: int = 256
) -> dict[str, float]:
    """Every metric of every set, in the language of its captions or class names.

    A text or a picture that several sets share is embedded once.

    Args:
        encode_images: uint8 images (B, 3, H, W) -> (B, E).
        encode_texts: B texts -> (B, E).
        sets: Retrieval, caption and classification sets, images decoded.
        batch_size: Images per call of `encode_images`; twice as many texts go into one call.

    Returns:
        Key -> metric, keys as in the head of this file; zero_shot_top5 is left out where there are
        fewer than five classes. Text -> image retrieval asks with the
        distinct target captions of a set, over its images: any image that has the caption is right.
    """
    return metrics_of(Embeddings(encode_images, encode_texts, batch_size), sets)


def metrics_of(embeddings: Embeddings, sets: EvaluationSets) -> dict[str, float]:
    """As `evaluate_sets`, with embeddings that the caller goes on using (for a panel, say).

    Raises:
        NonFiniteEmbeddingsError: Embeddings of a set hold NaN or infinity; names the set.
    """
    metrics: dict[str, float] = {}
    for retrieval_set in sets.retrieval:
        with naming(f"evaluation set {retrieval_set.name}"):
            metrics |= _retrieval_metrics(embeddings, retrieval_set)
    for caption_set in sets.captions:
        with naming(f"evaluation set {caption_set.name}"):
            metrics |= _caption_metrics(embeddings, caption_set)
    for classification_set in sets.classification:
        with naming(f"evaluation set {classification_set.name}"):
            metrics |= _classification_metrics(embeddings, classification_set)
    return metrics


def chance_levels(sets: EvaluationSets) -> dict[str, float]:
    """What a model with random embeddings scores in expectation, under the same keys."""
    levels: dict[str, float] = {}
    for retrieval_set in sets.retrieval:
        levels |= _retrieval_chance(retrieval_set)
    for caption_set in sets.captions:
        size = len(next(iter(caption_set.captions.values())))
        for source, target in permutations(caption_set.captions, 2):
            chance = {k: min(1.0, k / size) for k in RECALL_KS}
            levels |= _recall_entries(f"eval/{caption_set.name}/{source}_to_{target}", chance)
        levels[f"eval/{caption_set.name}/{MATCHED_MINUS_RANDOM}"] = 0.0
    for classification_set in sets.classification:
        levels |= _classification_chance(classification_set)
    return levels


def _recall_entries(prefix: str, recalls: dict[int, float]) -> dict[str, float]:
    return {f"{prefix}_R@{k}": recall for k, recall in recalls.items()}


def _retrieval_metrics(embeddings: Embeddings, data: RetrievalSet) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for language in data.captions:
        to_text, to_image = retrieval_items(embeddings, data, language)
        metrics |= _recall_entries(to_text.task, recall_at(to_text.outcomes))
        metrics |= _recall_entries(to_image.task, recall_at(to_image.outcomes))
        metrics[f"eval/{data.name}_{language}/median_rank"] = median_rank(to_text.outcomes)
    return metrics


def _caption_metrics(embeddings: Embeddings, data: CaptionSet) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for items in caption_items(embeddings, data):
        if items.outcomes.is_floating_point():
            metrics[items.task] = items.outcomes.mean().item()
        else:
            metrics |= _recall_entries(items.task, recall_at(items.outcomes))
    return metrics


def _classification_metrics(embeddings: Embeddings, data: ClassificationSet) -> dict[str, float]:
    image_features = embeddings.images(data.images, data.digests)
    metrics: dict[str, float] = {}
    for language, class_names in data.class_names.items():
        classes = class_embeddings(embeddings.texts, class_names, data.templates[language])
        prefix = f"eval/{data.name}_{language}"
        tops = accuracy(image_features, classes, data.labels)
        metrics |= {f"{prefix}/zero_shot_top{k}": top for k, top in tops.items()}
        metrics[f"{prefix}/mean_per_class_recall"] = mean_per_class_recall(image_features, classes, data.labels)
    return metrics


def _retrieval_chance(data: RetrievalSet) -> dict[str, float]:
    num_images = len(data.images)
    right_counts = torch.bincount(data.target)[torch.unique(data.target)].tolist()
    to_image = {k: _mean([_chance_of_any(count, num_images, k) for count in right_counts]) for k in RECALL_KS}
    levels: dict[str, float] = {}
    for language, captions in data.captions.items():
        prefix = f"eval/{data.name}_{language}"
        to_text = {k: min(1.0, k / len(captions)) for k in RECALL_KS}
        levels |= _recall_entries(f"{prefix}/image_to_text", to_text)
        levels |= _recall_entries(f"{prefix}/text_to_image", to_image)
        levels[f"{prefix}/median_rank"] = (len(captions) + 1) / 2
    return levels


def _classification_chance(data: ClassificationSet) -> dict[str, float]:
    levels: dict[str, float] = {}
    for language, class_names in data.class_names.items():
        prefix, num_classes = f"eval/{data.name}_{language}", len(class_names)
        levels |= {f"{prefix}/zero_shot_top{k}": k / num_classes for k in (1, 5) if k <= num_classes}
        levels[f"{prefix}/mean_per_class_recall"] = 1 / num_classes
    return levels


def _chance_of_any(num_right: int, num_items: int, k: int) -> float:
    """Chance that k items drawn out of `num_items` hold at least one of the `num_right` right ones."""
    return 1.0 - comb(num_items - num_right, k) / comb(num_items, k) if k <= num_items else 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
