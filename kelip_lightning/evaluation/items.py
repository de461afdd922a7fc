"""The outcome of every single item of an evaluation: what an interval over items is made of.

Tasks, named as the metrics that come from them:
    eval/<retrieval set>_<language>/image_to_text, text_to_image
    eval/<caption set>/<language>_to_<language>, matched_minus_random
    eval/<classification set>_<language>/zero_shot

Shapes: N items of a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_modules.records import LANGUAGES
from kelip_lightning.evaluation.embed import Embeddings
from kelip_lightning.evaluation.finite import naming
from kelip_lightning.evaluation.retrieval import group_ranks, retrieval_ranks
from kelip_lightning.evaluation.similarity import matched_minus_random
from kelip_lightning.evaluation.tasks import MATCHED_MINUS_RANDOM
from kelip_lightning.evaluation.zero_shot import class_embeddings, class_ranks

if TYPE_CHECKING:
    from data_modules.benchmarks.evaluation_sets import CaptionSet, ClassificationSet, EvaluationSets, RetrievalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItems:
    """The items of one task."""

    task: str
    """As in the head of this file."""
    outcomes: Tensor
    """(N,). int64: rank of the right answer, 0 is best; ties count against the model. float64: the item's metric."""
    groups: Tensor
    """int64 (N,): items with the same right answer (class, caption) share a number."""
    texts: list[str]
    """N captions (class names): what the right answer, or the question, says in words."""


def items_of(embeddings: Embeddings, sets: EvaluationSets) -> list[TaskItems]:
    """Every item of every set; the metrics of `suite.metrics_of` are means over them.

    Raises:
        NonFiniteEmbeddingsError: Embeddings of a set hold NaN or infinity; names the set.
    """
    tasks: list[TaskItems] = []
    for retrieval_set in sets.retrieval:
        with naming(f"evaluation set {retrieval_set.name}"):
            for language in retrieval_set.captions:
                tasks += retrieval_items(embeddings, retrieval_set, language)
    for caption_set in sets.captions:
        with naming(f"evaluation set {caption_set.name}"):
            tasks += caption_items(embeddings, caption_set)
    for classification_set in sets.classification:
        with naming(f"evaluation set {classification_set.name}"):
            tasks += _classification_items(embeddings, classification_set)
    return tasks


def retrieval_items(embeddings: Embeddings, data: RetrievalSet, language: str) -> tuple[TaskItems, TaskItems]:
    """Image -> text, one item an image, and text -> image, one item a caption that has an image."""
    captions = data.captions[language]
    image_features, gallery = embeddings.images(data.images, data.digests), embeddings.texts(captions)
    asked = torch.unique(data.target)
    prefix = f"eval/{data.name}_{language}"
    to_text = TaskItems(
        task=f"{prefix}/image_to_text",
        outcomes=retrieval_ranks(image_features, gallery, data.target),
        groups=data.target,
        texts=[captions[index] for index in data.target.tolist()],
    )
    to_image = TaskItems(
        task=f"{prefix}/text_to_image",
        outcomes=group_ranks(gallery[asked], image_features, asked, data.target),
        groups=asked,
        texts=[captions[index] for index in asked.tolist()],
    )
    return to_text, to_image


def caption_items(embeddings: Embeddings, data: CaptionSet) -> Iterator[TaskItems]:
    """Each language's captions as questions to each other language's, and how much nearer translations lie."""
    features = {language: embeddings.texts(captions) for language, captions in data.captions.items()}
    for source, target in permutations(features, 2):
        indices = torch.arange(len(features[source]))
        yield TaskItems(
            task=f"eval/{data.name}/{source}_to_{target}",
            outcomes=retrieval_ranks(features[source], features[target], indices),
            groups=indices,
            texts=data.captions[source],
        )
    ko, en = (features[language] for language in LANGUAGES)
    yield TaskItems(
        task=f"eval/{data.name}/{MATCHED_MINUS_RANDOM}",
        outcomes=matched_minus_random(ko, en),
        groups=torch.arange(len(ko)),
        texts=data.captions["ko"],
    )


def _classification_items(embeddings: Embeddings, data: ClassificationSet) -> Iterator[TaskItems]:
    for language, class_names in data.class_names.items():
        classes = class_embeddings(embeddings.texts, class_names, data.templates[language])
        yield TaskItems(
            task=f"eval/{data.name}_{language}/zero_shot",
            outcomes=class_ranks(embeddings.images(data.images, data.digests), classes, data.labels),
            groups=data.labels,
            texts=[class_names[label][0] for label in data.labels.tolist()],
        )
