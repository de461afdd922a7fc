"""All evaluation sets of a model on all ranks: embedding, metrics, outcomes per item.

Every rank embeds its share of the images and texts, and no item is embedded twice. Batches are the same on any number
of ranks, and so are all outcomes. Names of metrics and tasks: see `metric_names`.

Shapes: N images or items, M texts, K classes, E embedding width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data_modules.benchmarks.evaluation_sets import (
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    EvaluationSet,
    RetrievalSet,
)
from data_modules.benchmarks.image_stream import ImageCache, SelectedImages, image_batches
from kelip_lightning.distributed.sharing import blocks_of, raised_together, rank_and_world
from kelip_lightning.evaluation.embed import error_context
from kelip_lightning.evaluation.encoders import Encoders, ImageFunctions
from kelip_lightning.evaluation.tasks import (
    CaptionTask,
    ChoiceTask,
    ClassificationTask,
    RetrievalTask,
    SetConfusions,
    SetEmbeddings,
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
    embeddings: SetEmbeddings | None = None
    """Some embeddings of the set that `Streaming.projected` names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projected:
    """The embeddings that an evaluation keeps."""

    set_name: str
    """Of a retrieval set."""
    max_images: int
    """Most images, spread evenly over the set; with them, the first caption of each in every language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How images and texts are read and batched; results do not depend on the number of workers."""

    batch_size: int = 64
    """Most images or texts of a forward pass."""
    num_workers: int = 0
    """Loader processes of each rank."""
    num_examples: int = 0
    """Images of each set whose best texts are kept; 0: none, and no confusions."""
    projected: Projected | None = None
    """Embeddings to keep; `None`: none."""
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
        if isinstance(task, RetrievalTask) and task.embeddings is not None:
            evaluation.embeddings = task.embeddings
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
        users = [
            ImageUser(name=task.name, images=images, add=task.add_images)
            for task in tasks
            if (images := images_of(task.data)) is not None
        ]
        if users:
            embed_images(users, encoders, streaming)
    for task in tasks:
        with error_context(f"evaluation set {task.name}"):
            task.compute()
    return tasks


def _task(one: EvaluationSet, encoders: Encoders, streaming: Streaming) -> SetTask:
    match one:
        case RetrievalSet():
            projected = streaming.projected
            max_kept = projected.max_images if projected and projected.set_name == one.name else 0
            return RetrievalTask(one, encoders, streaming.num_examples, max_kept)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUser:
    """What a set wants embedded of a table's images."""

    name: str
    """Of the set, for messages."""
    images: SelectedImages
    """N images."""
    add: Callable[[Tensor, Tensor], None]
    """Receives embeddings (B, E) of some of them, on the device of the metrics, and their positions, int64 (B,)."""


def embed_images(users: Sequence[ImageUser], functions: ImageFunctions, streaming: Streaming) -> None:
    """Give every user the embeddings of this rank's share of its images; an image of several users is embedded once.

    Holds no collective; an error on one rank must be raised on all by the caller.

    Args:
        users: One or more, of one table.
        functions: Of the model.
        streaming: Batches and workers.

    Raises:
        NonFiniteEmbeddingsError, DataError: See `evaluate_sets`.
    """
    union = np.unique(np.concatenate([user.images.rows for user in users]))
    places = [torch.from_numpy(np.searchsorted(union, user.images.rows)) for user in users]
    images, batches = SelectedImages(users[0].images.table, union), _own_batches(len(union), streaming.batch_size)
    read = partial(
        image_batches,
        images,
        functions.preprocess,
        batches,
        num_workers=streaming.num_workers,
        owner=f"evaluation set {', '.join(dict.fromkeys(user.name for user in users))}",
        pin_memory=functions.device.type == "cuda",
    )
    for batch, pixels in streaming.cache.batches(images, batches, read):
        rows = functions.encode_images(pixels).to(functions.device)
        for user, place in zip(users, places, strict=True):
            ids = ((place >= batch.start) & (place < batch.stop)).nonzero()[:, 0]
            if len(ids):
                with error_context(f"evaluation set {user.name}"):
                    user.add(rows[place[ids] - batch.start], ids)
