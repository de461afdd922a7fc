"""All evaluation sets of a model on all ranks: embedding, metrics, outcomes per item.

Every rank embeds its share of the images and texts, and no item is embedded twice. Batches are the same on any number
of ranks, and so are all outcomes. Names of metrics and tasks: see `metric_names`.

Shapes: N images or items, M texts, K classes, E embedding width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from data_modules.benchmarks.evaluation_sets import (
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    EvaluationSet,
    RetrievalSet,
)
from data_modules.benchmarks.image_stream import ImageCache, SelectedImages, image_batches
from data_modules.benchmarks.sample_table import SampleTable
from kelip_lightning.distributed.sharing import blocks_of, raised_together, rank_and_world
from kelip_lightning.evaluation.embed import error_context
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.tasks import (
    CaptionTask,
    ChoiceTask,
    ClassificationTask,
    RetrievalTask,
    SetConfusions,
    SetTask,
    TaskItems,
    TieDifference,
    TopExamples,
)

_FEWEST_BATCHES = 64
"""Batches that a set is cut into at least, so that they can be shared by many ranks."""
_SMALLEST_BATCH = 16


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """The results of all sets, equal on every rank."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Metric -> value, by each set's tie rule."""
    items: list[TaskItems] = field(default_factory=list)
    """The outcome of every item of every task."""
    tie_differences: dict[str, TieDifference] = field(default_factory=dict)
    """Metric -> its values under both tie rules, where they differ."""
    examples: list[TopExamples] = field(default_factory=list)
    """The best texts of some images of each set and language, for panels."""
    confusions: list[SetConfusions] = field(default_factory=list)
    """The most confused classes of each zero-shot set and language, for panels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How images and texts are read and batched; results do not depend on the number of workers."""

    batch_size: int = 64
    """Most images or texts of a forward pass."""
    num_workers: int = 0
    """Loader processes of each rank."""
    num_examples: int = 0
    """Images of each set whose best texts are kept; 0: none, and no confusions."""
    cache: ImageCache = field(default_factory=lambda: ImageCache(0))
    """Of preprocessed images, for evaluations with the same preprocessing."""


@torch.no_grad()
def evaluate_sets(sets: Iterable[EvaluationSet], encoders: Encoders, streaming: Streaming) -> Evaluation:
    """Every metric of the sets; images and texts of one table are embedded once. All ranks must call it.

    Args:
        sets: Built and checked.
        encoders: The model, with the same weights on every rank.
        streaming: Batches and workers.

    Raises:
        NonFiniteEmbeddingsError: Embeddings hold NaN or infinity; names the set. On every rank.
        DataError: An image cannot be decoded; names set and key. On every rank.
    """
    ordered = list(sets)
    tasks = [task for group in _by_table(ordered) for task in _evaluate_group(group, encoders, streaming)]
    evaluation = Evaluation()
    for task in sorted(tasks, key=lambda task: ordered.index(task.data)):
        evaluation.metrics |= task.metrics()
        evaluation.items += task.items()
        evaluation.tie_differences |= task.tie_differences()
        evaluation.examples += task.examples()
        evaluation.confusions += task.confusions()
    return evaluation


def batch_size_of(num_items: int, largest: int) -> int:
    """Items of a batch: a function of their number alone, small enough to share small sets among ranks."""
    return min(largest, max(_SMALLEST_BATCH, -(-num_items // _FEWEST_BATCHES)))


def _by_table(sets: Sequence[EvaluationSet]) -> list[list[EvaluationSet]]:
    """Sets of one table together; otherwise in order."""
    groups: dict[str, list[EvaluationSet]] = {}
    for one in sets:
        groups.setdefault(one.identity, []).append(one)
    return list(groups.values())


def images_of(one: EvaluationSet) -> SelectedImages | None:
    """The images of a set, if it has any."""
    return one.images if isinstance(one, RetrievalSet | ClassificationSet | ChoiceSet) else None


def _evaluate_group(group: Sequence[EvaluationSet], encoders: Encoders, streaming: Streaming) -> list[SetTask]:
    tasks = [_task(one, encoders, streaming) for one in group]
    for task in tasks:
        with error_context(f"evaluation set {task.name}"):
            task.prepare()
    with raised_together():
        _embed_texts(tasks, encoders, streaming)
        if tables := [images.table for one in group if (images := images_of(one)) is not None]:
            _embed_images(tasks, tables[0], encoders, streaming)
    for task in tasks:
        with error_context(f"evaluation set {task.name}"):
            task.compute()
    return tasks


def _task(one: EvaluationSet, encoders: Encoders, streaming: Streaming) -> SetTask:
    match one:
        case RetrievalSet():
            return RetrievalTask(one, encoders, streaming.num_examples)
        case CaptionSet():
            return CaptionTask(one, encoders)
        case ClassificationSet():
            return ClassificationTask(one, encoders, streaming.num_examples)
        case ChoiceSet():
            return ChoiceTask(one, encoders)
    raise TypeError(f"{type(one).__name__} is no evaluation set")


def _own_batches(num_items: int, largest: int) -> list[slice]:
    """This rank's batches: every n-th of all, so that ranks differ by one batch at most."""
    rank, world = rank_and_world()
    return blocks_of(num_items, batch_size_of(num_items, largest))[rank::world]


def _embed_texts(tasks: Sequence[SetTask], encoders: Encoders, streaming: Streaming) -> None:
    """Give every task the embeddings of this rank's share of the distinct texts."""
    wanted = [(task, language, texts) for task in tasks for language, texts in task.texts().items()]
    # By length, because the encoder pads to the longest text of a batch.
    distinct = sorted({text for _, _, texts in wanted for text in texts}, key=lambda text: (len(text), text))
    number = {text: place for place, text in enumerate(distinct)}
    places = [torch.tensor([number[text] for text in texts]) for _, _, texts in wanted]
    for batch in _own_batches(len(distinct), streaming.batch_size):
        rows = encoders.encode_texts(distinct[batch]).to(encoders.device)
        for (task, language, _), place in zip(wanted, places, strict=True):
            ids = ((place >= batch.start) & (place < batch.stop)).nonzero()[:, 0]
            if len(ids):
                with error_context(f"evaluation set {task.name}"):
                    task.add_texts(language, rows[place[ids] - batch.start], ids)


def _embed_images(tasks: Sequence[SetTask], table: SampleTable, encoders: Encoders, streaming: Streaming) -> None:
    """Give every task the embeddings of this rank's share of the table's images that any task uses."""
    users = [(task, images.rows) for task in tasks if (images := images_of(task.data)) is not None]
    union = np.unique(np.concatenate([rows for _, rows in users]))
    places = [torch.from_numpy(np.searchsorted(union, rows)) for _, rows in users]
    owner = f"evaluation set {', '.join(task.name for task, _ in users)}"
    images, batches = SelectedImages(table, union), _own_batches(len(union), streaming.batch_size)
    read = partial(
        image_batches,
        images,
        encoders.preprocess,
        batches,
        num_workers=streaming.num_workers,
        owner=owner,
        pin_memory=encoders.device.type == "cuda",
    )
    for batch, pixels in streaming.cache.batches(images, batches, read):
        rows = encoders.encode_images(pixels).to(encoders.device)
        for (task, _), place in zip(users, places, strict=True):
            ids = ((place >= batch.start) & (place < batch.stop)).nonzero()[:, 0]
            if len(ids):
                with error_context(f"evaluation set {task.name}"):
                    task.add_images(rows[place[ids] - batch.start], ids)
