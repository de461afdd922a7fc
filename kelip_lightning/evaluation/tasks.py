"""What one evaluation set asks of a model: texts and images to embed, then metrics and outcomes per item.

Shapes: N images or items, M texts, K classes, E embedding width, S shown images.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from data_modules.benchmarks.evaluation_sets import (
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    EvaluationSet,
    RetrievalSet,
)
from kelip_lightning.distributed.sharing import rows_in_blocks
from kelip_lightning.evaluation.choice import ChoiceAccuracy
from kelip_lightning.evaluation.confusions import Confusion, worst_confusions
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.metric_names import (
    CHOICE,
    IMAGE_TO_TEXT,
    MATCHED_MINUS_RANDOM,
    MEAN_PER_CLASS_RECALL,
    ZERO_SHOT,
    at_k,
    join_name,
)
from kelip_lightning.evaluation.ranks import TIE_RULES, QueryOutcomes
from kelip_lightning.evaluation.retrieval import CaptionRetrieval, RetrievalRecall, TopMatches
from kelip_lightning.evaluation.selected_rows import SelectedRows
from kelip_lightning.evaluation.zero_shot import ZeroShotAccuracy, class_embeddings

_MOST_CLASSES = 32
"""Classes whose prompts are embedded together."""

TieDifference = Mapping[str, float]
"""Tie rule -> value of a metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItems:
    """The items of one task."""

    task: str
    """Its name, as in `metric_names`."""
    outcomes: Tensor
    """(N,). int64: rank of the correct item, 0 is best; float64: the item's metric."""
    groups: Tensor
    """int64 (N,): items with the same correct item (class, concept) share a number."""
    texts: list[str]
    """N captions or class names: of the correct item, or of the query where the query is a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopExamples:
    """The best texts of some images of a set in one language."""

    data: RetrievalSet | ClassificationSet
    language: str
    images: list[int]
    """S positions in the set's images, ascending."""
    texts: list[list[str]]
    """S lists, best text first."""
    probabilities: list[list[float]]
    """Softmax of the scaled cosines over all captions or classes."""
    correct: list[list[bool]]
    """Whether each text is correct."""
    true_texts: list[str]
    """S correct texts, the first of each image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfusions:
    """The most confused classes of a set in one language."""

    data: ClassificationSet
    language: str
    pairs: list[Confusion]
    """Numbers of classes as in the set, worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEmbeddings:
    """Embeddings of S images of a set and of their captions, unit rows, float32 on the CPU; equal on every rank."""

    data: RetrievalSet
    images: Tensor
    """int64 (S,), positions in the set's images, ascending."""
    image_rows: Tensor
    """(S, E)."""
    texts: dict[str, Tensor]
    """Language -> int64 (S', ), positions in the set's captions, ascending: the first caption of each image, once."""
    text_rows: dict[str, Tensor]
    """Language -> (S', E)."""


class SetTask(ABC):
    """One set: the suite calls `prepare`, then adds embeddings, then calls `compute`, on all ranks."""

    data: EvaluationSet

    @property
    def name(self) -> str:
        """Of the set."""
        return self.data.name

    def prepare(self) -> None:  # noqa: B027
        """Work before any embedding is added, in which all ranks take part."""

    def texts(self) -> Mapping[str, list[str]]:
        """Language -> the M texts to embed; a text's position is its id."""
        return {}

    def add_texts(self, language: str, rows: Tensor, ids: Tensor) -> None:  # noqa: B027
        """Embeddings (B, E) of some texts, and their ids."""

    def add_images(self, rows: Tensor, ids: Tensor) -> None:  # noqa: B027
        """Embeddings (B, E) of some images, and their positions in the set."""

    @abstractmethod
    def compute(self) -> None:
        """Gather what all ranks added, and compute."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Metric -> value."""

    @abstractmethod
    def items(self) -> list[TaskItems]:
        """The outcomes of every task."""

    @abstractmethod
    def outcomes(self) -> Mapping[str, QueryOutcomes]:
        """Task -> outcomes under both tie rules."""

    def tie_differences(self) -> dict[str, TieDifference]:
        """Metric -> its values under both tie rules, where they differ."""
        found = {
            at_k(task, k): {rule: outcomes.recall(k, rule) for rule in TIE_RULES}
            for task, outcomes in self.outcomes().items()
            for k in outcomes.ks
        }
        return {metric: values for metric, values in found.items() if len(set(values.values())) > 1}

    def examples(self) -> list[TopExamples]:
        """The shown images, per language."""
        return []

    def confusions(self) -> list[SetConfusions]:
        """The most confused classes, per language."""
        return []


class RetrievalTask(SetTask):
    """Image–text retrieval in each language."""

    def __init__(self, data: RetrievalSet, encoders: Encoders, num_examples: int, max_kept: int = 0) -> None:
        self.data: RetrievalSet = data
        self.embeddings: SetEmbeddings | None = None
        """Of at most `max_kept` images, after `compute`; `None` for 0."""
        self._kept: dict[str | None, SelectedRows] = {}
        """Rows to keep of the images (`None`) and of the captions of each language."""
        if max_kept:
            images = spread_evenly(len(data.images), max_kept)
            texts = {language: first_positives(pairs)[images] for language, pairs in data.positives.items()}
            self._kept = {language: SelectedRows(ids).to(encoders.device) for language, ids in texts.items()}
            self._kept[None] = SelectedRows(images).to(encoders.device)
        self._shown = spread_evenly(len(data.images), num_examples) if num_examples else None
        self._metrics = {
            language: RetrievalRecall(
                pairs, tie_rule=data.tie_rule, shown_ids=self._shown, logit_scale=encoders.logit_scale
            ).to(encoders.device)
            for language, pairs in data.positives.items()
        }
        self._values: dict[str, float] = {}

    def texts(self) -> Mapping[str, list[str]]:
        return self.data.captions

    def add_texts(self, language: str, rows: Tensor, ids: Tensor) -> None:
        self._metrics[language].update(texts=rows, text_ids=ids)
        if self._kept:
            self._kept[language].update(rows, ids)

    def add_images(self, rows: Tensor, ids: Tensor) -> None:
        for metric in self._metrics.values():
            metric.update(images=rows, image_ids=ids)
        if self._kept:
            self._kept[None].update(rows, ids)

    def compute(self) -> None:
        for language, metric in self._metrics.items():
            values = metric.compute()
            self._values |= {join_name(self.name, language, rest): value.item() for rest, value in values.items()}
            metric.reset()
        if self._kept:
            rows = {part: kept.compute().cpu() for part, kept in self._kept.items()}
            self.embeddings = SetEmbeddings(
                data=self.data,
                images=self._kept[None].ids,
                image_rows=rows[None],
                texts={language: self._kept[language].ids for language in self._metrics},
                text_rows={language: rows[language] for language in self._metrics},
            )

    def metrics(self) -> dict[str, float]:
        return self._values

    def outcomes(self) -> Mapping[str, QueryOutcomes]:
        return {
            join_name(self.name, language, direction): outcomes
            for language, metric in self._metrics.items()
            for direction, outcomes in metric.outcomes.items()
        }

    def items(self) -> list[TaskItems]:
        tasks = []
        for language, metric in self._metrics.items():
            captions = self.data.captions[language]
            for direction, outcomes in metric.outcomes.items():
                if direction == IMAGE_TO_TEXT:
                    groups, texts = self.data.image_concepts, first_positives(self.data.positives[language])
                else:
                    groups, texts = self.data.caption_concepts[language][outcomes.ids], outcomes.ids
                tasks.append(
                    TaskItems(
                        task=join_name(self.name, language, direction),
                        outcomes=outcomes.ranks(self.data.tie_rule),
                        groups=groups,
                        texts=[captions[text] for text in texts.tolist()],
                    )
                )
        return tasks

    def examples(self) -> list[TopExamples]:
        found = []
        for language, metric in self._metrics.items():
            if metric.top_texts is not None:
                captions, pairs = self.data.captions[language], self.data.positives[language]
                correct = set(map(tuple, pairs.tolist()))
                true = [captions[text] for text in first_positives(pairs)[metric.top_texts.image_ids].tolist()]
                found.append(_examples(self.data, language, metric.top_texts, captions, correct, true))
        return found


class CaptionTask(SetTask):
    """Retrieval between the languages."""

    def __init__(self, data: CaptionSet, encoders: Encoders) -> None:
        self.data: CaptionSet = data
        self._metric = CaptionRetrieval(tie_rule=data.tie_rule).to(encoders.device)
        self._values: dict[str, float] = {}

    def texts(self) -> Mapping[str, list[str]]:
        return self.data.captions

    def add_texts(self, language: str, rows: Tensor, ids: Tensor) -> None:
        self._metric.update(**{language: rows, f"{language}_ids": ids})

    def compute(self) -> None:
        values = self._metric.compute()
        self._values = {join_name(self.name, None, rest): value.item() for rest, value in values.items()}
        self._metric.reset()

    def metrics(self) -> dict[str, float]:
        return self._values

    def outcomes(self) -> Mapping[str, QueryOutcomes]:
        return {join_name(self.name, None, task): outcomes for task, outcomes in self._metric.outcomes.items()}

    def items(self) -> list[TaskItems]:
        tasks = [
            TaskItems(
                task=join_name(self.name, None, task),
                outcomes=outcomes.ranks(self.data.tie_rule),
                groups=outcomes.ids,
                texts=self.data.captions[task[:2]],
            )
            for task, outcomes in self._metric.outcomes.items()
        ]
        differences = self._metric.matched_minus_random
        tasks.append(
            TaskItems(
                task=join_name(self.name, None, MATCHED_MINUS_RANDOM),
                outcomes=differences,
                groups=torch.arange(len(differences)),
                texts=self.data.captions["ko"],
            )
        )
        return tasks


class ClassificationTask(SetTask):
    """Zero-shot classification in each language, over the classes that have a name in it."""

    def __init__(self, data: ClassificationSet, encoders: Encoders, num_examples: int) -> None:
        self.data: ClassificationSet = data
        self._encoders, self._num_examples = encoders, num_examples
        named = {
            language: torch.tensor([number for number, own in enumerate(names) if own], dtype=torch.int64)
            for language, names in data.classes.names.items()
        }
        # A language in which no image's class has a name has no metrics.
        self._named = {language: one for language, one in named.items() if bool(torch.isin(data.labels, one).any())}
        self._metrics: dict[str, ZeroShotAccuracy] = {}
        self._values: dict[str, float] = {}

    def prepare(self) -> None:
        """Embed the classes of each language, each on one rank."""
        for language, named in self._named.items():
            names = [self.data.classes.names[language][number] for number in named.tolist()]
            templates = self.data.classes.templates[language]

            def embed(block: slice, names: list[list[str]] = names, templates: list[str] = templates) -> Tensor:
                rows = class_embeddings(self._encoders.encode_texts, names[block], templates)
                return rows.to(self._encoders.device)

            size = min(_MOST_CLASSES, -(-len(names) // 64))
            classifier = rows_in_blocks(len(names), size, embed)
            metric = ZeroShotAccuracy(classifier, tie_rule=self.data.tie_rule, logit_scale=self._encoders.logit_scale)
            self._metrics[language] = metric.to(self._encoders.device)

    def add_images(self, rows: Tensor, ids: Tensor) -> None:
        for language, metric in self._metrics.items():
            labels = self._labels(language)[ids]
            known = labels >= 0
            metric.update(rows[known.to(rows.device)], labels[known], ids[known])

    def _labels(self, language: str) -> Tensor:
        """int64 (N,): each image's class among those named in the language; -1: it has no name."""
        number = torch.full((len(self.data.classes.ids),), -1)
        number[self._named[language]] = torch.arange(len(self._named[language]))
        return number[self.data.labels]

    def compute(self) -> None:
        for language, metric in self._metrics.items():
            for rest, value in metric.compute().items():
                metric_name = rest if rest == MEAN_PER_CLASS_RECALL else f"{ZERO_SHOT}_{rest}"
                self._values[join_name(self.name, language, metric_name)] = value.item()
            metric.reset()

    def metrics(self) -> dict[str, float]:
        return self._values

    def outcomes(self) -> Mapping[str, QueryOutcomes]:
        return {
            join_name(self.name, language, ZERO_SHOT): metric.outcomes
            for language, metric in self._metrics.items()
            if metric.outcomes is not None
        }

    def tie_differences(self) -> dict[str, TieDifference]:
        found = super().tie_differences()
        for language, metric in self._metrics.items():
            values = {rule: metric.mean_per_class_recall(rule) for rule in TIE_RULES}
            if len(set(values.values())) > 1:
                found[join_name(self.name, language, MEAN_PER_CLASS_RECALL)] = values
        return found

    def items(self) -> list[TaskItems]:
        tasks = []
        for language, metric in self._metrics.items():
            assert metric.outcomes is not None
            labels = self.data.labels[metric.outcomes.ids]
            names = self.data.classes.names[language]
            tasks.append(
                TaskItems(
                    task=join_name(self.name, language, ZERO_SHOT),
                    outcomes=metric.outcomes.ranks(self.data.tie_rule),
                    groups=labels,
                    texts=[names[label][0] for label in labels.tolist()],
                )
            )
        return tasks

    def confusions(self) -> list[SetConfusions]:
        found = []
        for language, metric in self._metrics.items():
            if self._num_examples and metric.top_matches is not None:
                named = self._named[language]
                true, predicted = named[metric.item_labels], named[metric.top_matches.match_ids[:, 0]]
                pairs = worst_confusions(true, predicted, len(self.data.classes.ids))
                found.append(SetConfusions(data=self.data, language=language, pairs=pairs))
        return found

    def examples(self) -> list[TopExamples]:
        found = []
        for language, metric in self._metrics.items():
            if self._num_examples and metric.top_matches is not None:
                shown = spread_evenly(len(metric.top_matches.image_ids), self._num_examples)
                top = TopMatches(*(part[shown] for part in metric.top_matches))
                names = [self.data.classes.names[language][number][0] for number in self._named[language].tolist()]
                labels = metric.item_labels[shown].tolist()
                correct = set(zip(top.image_ids.tolist(), labels, strict=True))
                found.append(_examples(self.data, language, top, names, correct, [names[label] for label in labels]))
        return found


class ChoiceTask(SetTask):
    """Multiple-choice questions about images."""

    def __init__(self, data: ChoiceSet, encoders: Encoders) -> None:
        self.data: ChoiceSet = data
        counts = torch.tensor([len(texts) for texts in data.texts])
        self._metric = ChoiceAccuracy(counts, data.answers, tie_rule=data.tie_rule).to(encoders.device)
        self._value = 0.0

    def texts(self) -> Mapping[str, list[str]]:
        return {self.data.language: [text for texts in self.data.texts for text in texts]}

    def add_texts(self, language: str, rows: Tensor, ids: Tensor) -> None:
        self._metric.update(texts=rows, text_ids=ids)

    def add_images(self, rows: Tensor, ids: Tensor) -> None:
        self._metric.update(images=rows, image_ids=ids)

    def compute(self) -> None:
        self._value = self._metric.compute().item()
        self._metric.reset()

    def metrics(self) -> dict[str, float]:
        return {at_k(self._task, 1): self._value}

    @property
    def _task(self) -> str:
        return join_name(self.name, self.data.language, CHOICE)

    def outcomes(self) -> Mapping[str, QueryOutcomes]:
        return {} if self._metric.outcomes is None else {self._task: self._metric.outcomes}

    def items(self) -> list[TaskItems]:
        return [
            TaskItems(
                task=task,
                outcomes=outcomes.ranks(self.data.tie_rule),
                groups=outcomes.ids,
                texts=[
                    texts[answer] for texts, answer in zip(self.data.texts, self.data.answers.tolist(), strict=True)
                ],
            )
            for task, outcomes in self.outcomes().items()
        ]


def _examples(
    data: RetrievalSet | ClassificationSet,
    language: str,
    top: TopMatches,
    texts: list[str],
    correct: set[tuple[int, ...]] | set[tuple[int, int]],
    true_texts: list[str],
) -> TopExamples:
    images = top.image_ids.tolist()
    return TopExamples(
        data=data,
        language=language,
        images=images,
        texts=[[texts[one] for one in row] for row in top.match_ids.tolist()],
        probabilities=top.probabilities.tolist(),
        correct=[
            [(image, one) in correct for one in row] for image, row in zip(images, top.match_ids.tolist(), strict=True)
        ],
        true_texts=true_texts,
    )


def first_positives(positives: Tensor) -> Tensor:
    """int64 (N,): the first correct caption of each image; `positives` are int64 (P, 2) pairs (image, caption)."""
    images, captions = positives.unbind(dim=1)
    first = torch.full((int(images.max()) + 1,), torch.iinfo(torch.int64).max)
    return first.scatter_reduce(0, images, captions, "amin")


def spread_evenly(num_items: int, num_shown: int) -> Tensor:
    """At most `num_shown` distinct indices from the first to the last item; int64, no randomness."""
    return torch.linspace(0, num_items - 1, min(num_items, num_shown)).round().long()
