"""Evaluation sets, checked and ready to be embedded; their images stay encoded until then.

Shapes: N images, M captions of a language, K classes, P positives (correct pairs).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.benchmarks.captioned_images import (
    captioned_by_concept,
    captioned_by_image,
    concepts_of,
    distinct,
    row_captions,
)
from data_modules.benchmarks.class_labels import class_labels
from data_modules.benchmarks.class_names import ClassNames, read_class_names
from data_modules.benchmarks.config import (
    CaptionChoice,
    CaptionSetConfig,
    ChoiceSetConfig,
    ClassificationSetConfig,
    DuplicateRule,
    EvaluationConfig,
    IntervalConfig,
    Layout,
    RetrievalSetConfig,
    TableConfig,
)
from data_modules.benchmarks.image_choice import option_texts
from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.benchmarks.layouts.clip_benchmark import read_class_files
from data_modules.benchmarks.layouts.fingerprints import sample_fingerprints
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.layouts.settings import only_folder
from data_modules.benchmarks.same_images import check_images, rows_of_images
from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.paths import in_folder
from data_modules.sources.fingerprint import FileFingerprint, text_fingerprint
from data_modules.sources.tables import as_text

_DEFAULT_CONCEPT = TableConfig.__dataclass_fields__["concept"].default


@dataclass(kw_only=True, slots=True, eq=False)
class EvaluationSet:
    """What all sets have in common."""

    name: str
    identity: str
    """Of the table: sets of one table are evaluated together."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was left out, for the user."""
    interval: IntervalConfig = field(default_factory=IntervalConfig)
    """When it is evaluated in training; not given: with the others."""
    tie_rule: str = "pessimistic"
    """pessimistic or topk."""


@dataclass(kw_only=True, slots=True, eq=False)
class RetrievalSet(EvaluationSet):
    """Images and a gallery of captions per language; any number of correct captions per image and back."""

    images: SelectedImages
    """N images."""
    captions: dict[str, list[str]]
    """Language -> M captions."""
    positives: dict[str, Tensor]
    """Language -> int64 (P, 2): pairs (image, caption), each pair once, each image in one or more."""
    image_concepts: Tensor
    """int64 (N,): images with equal numbers depict the same concept."""
    caption_concepts: dict[str, Tensor]
    """Language -> int64 (M,): the concept of each caption."""


@dataclass(kw_only=True, slots=True, eq=False)
class CaptionSet(EvaluationSet):
    """Captions of the same M concepts in each language, aligned by index."""

    captions: dict[str, list[str]]


@dataclass(kw_only=True, slots=True, eq=False)
class ClassificationSet(EvaluationSet):
    """Labelled images, and the names and templates of the classes."""

    images: SelectedImages
    """N images."""
    labels: Tensor
    """int64 (N,), in [0, K)."""
    classes: ClassNames
    """K classes; one without a name in a language is left out in it, with its images."""


@dataclass(kw_only=True, slots=True, eq=False)
class ChoiceSet(EvaluationSet):
    """Images with two or more texts each, one of which is correct."""

    language: str
    images: SelectedImages
    """N images."""
    texts: list[list[str]]
    """N lists of two or more texts."""
    answers: Tensor
    """int64 (N,), index of the correct text in each list."""


@dataclass(kw_only=True, slots=True, eq=False)
class EvaluationSets:
    """All sets of an experiment."""

    retrieval: list[RetrievalSet] = field(default_factory=list)
    captions: list[CaptionSet] = field(default_factory=list)
    classification: list[ClassificationSet] = field(default_factory=list)
    choices: list[ChoiceSet] = field(default_factory=list)

    def __iter__(self) -> Iterator[EvaluationSet]:
        """All of them, in the order of the configuration."""
        yield from (*self.retrieval, *self.captions, *self.classification, *self.choices)


def build_evaluation_sets(config: EvaluationConfig) -> EvaluationSets:
    """Open and check every configured set; no image is decoded.

    Raises:
        DataError: A file is missing or damaged, or a set is empty or inconsistent.
    """
    folder = config.data_folder
    return EvaluationSets(
        retrieval=[build_retrieval_set(name, one, folder) for name, one in config.retrieval.items()],
        captions=[build_caption_set(name, one, folder) for name, one in config.captions.items()],
        classification=[build_classification_set(name, one, folder) for name, one in config.classification.items()],
        choices=[build_choice_set(name, one, folder) for name, one in config.choices.items()],
    )


def build_retrieval_set(name: str, config: RetrievalSetConfig, data_folder: str | None = None) -> RetrievalSet:
    """Images of the rows that satisfy `where`, against the captions of the `gallery` rows.

    Raises:
        DataError: A file is missing or damaged, a cell is no text, an image is listed twice, or nothing is left.
    """
    context = f"evaluation.retrieval.{name}"
    table = _open(config.table, context, data_folder, [*config.where, *config.gallery])
    if not config.table.captions and not config.table.texts:
        raise DataError(f"{context}.table names no captions: give a column in captions, or a file in texts")
    rows = _matching(table, config.where, context)
    has_concepts = config.table.concept in table.columns
    gallery = _matching(table, config.gallery, context) if has_concepts or config.gallery else rows
    read = captioned_by_concept if has_concepts else captioned_by_image
    found = read(table, config.table, rows, gallery, context, data_folder)
    texts = found.texts
    if config.use_captions is CaptionChoice.first:
        texts = {language: [cell[:1] for cell in cells] for language, cells in texts.items()}
    captioned = np.all([[bool(cell) for cell in cells] for cells in texts.values()], axis=0)
    kept = captioned[found.concept_of]
    number = len(kept) - int(kept.sum())
    notes = [*found.notes, *_left_out(context, number, len(kept), "images without a caption in every language")]
    if not kept.any():
        raise DataError(f"{context}: no image with captions satisfies `where`; correct `where` or the caption columns")
    rows, image_concepts = found.rows[kept], torch.from_numpy(found.concept_of[kept])
    table.keys(rows)  # refuses an image that is listed twice, before any is decoded
    check_images(table, rows, context)
    captions, caption_concepts, positives = {}, {}, {}
    for language, cells in texts.items():
        captions[language] = [text for cell in cells for text in cell]
        counts = torch.tensor([len(cell) for cell in cells])
        caption_concepts[language] = torch.repeat_interleave(torch.arange(len(cells)), counts)
        positives[language] = _positives(image_concepts, counts)
        if config.duplicates is DuplicateRule.shared:
            positives[language] = shared_positives(positives[language], captions[language])
    return RetrievalSet(
        name=name,
        identity=table.identity,
        notes=notes,
        interval=config.interval,
        tie_rule=config.tie_rule.value,
        images=SelectedImages(table, rows),
        captions=captions,
        positives=positives,
        image_concepts=image_concepts,
        caption_concepts=caption_concepts,
    )


def build_caption_set(name: str, config: CaptionSetConfig, data_folder: str | None = None) -> CaptionSet:
    """The first caption of each distinct concept among the rows that satisfy `where`, in both languages.

    Raises:
        DataError: A file is missing or damaged, a cell is no text, or fewer than two concepts are left.
    """
    context = f"evaluation.captions.{name}"
    table = _open(config.table, context, data_folder, list(config.where), needs_images=False)
    rows = _matching(table, config.where, context)
    rows = rows[distinct(concepts_of(table, config.table, rows, context))[1]]
    texts = row_captions(table, config.table, rows, context, data_folder)
    whole = [all(cells) for cells in zip(*texts.values(), strict=True)]
    if set(texts) != set(LANGUAGES) or sum(whole) < 2:
        raise DataError(f"{context} needs two rows or more with captions in {' and '.join(LANGUAGES)}")
    return CaptionSet(
        name=name,
        identity=table.identity,
        notes=_left_out(context, len(rows) - sum(whole), len(rows), "rows without a caption in both languages"),
        interval=config.interval,
        tie_rule=config.tie_rule.value,
        captions={
            language: [cell[0] for cell, keep in zip(texts[language], whole, strict=True) if keep]
            for language in LANGUAGES
        },
    )


def build_classification_set(
    name: str, config: ClassificationSetConfig, data_folder: str | None = None
) -> ClassificationSet:
    """Images of the rows that satisfy `where` and whose label the classes file names.

    Raises:
        DataError: A file is missing or damaged, the classes are wrong, an image is listed twice, or none is left.
    """
    context = f"evaluation.classification.{name}"
    label = config.label or _LABELS.get(config.table.layout)
    if label is None:
        raise DataError(
            f"{context}.label is missing: name the column of classes; for a folder with a folder of images per class, "
            "set table.layout = image_folder instead"
        )
    table = _open(config.table, context, data_folder, [label, *config.where])
    classes = _class_names(config, context, data_folder)
    rows = _matching(table, config.where, context)
    found = class_labels(table, label, rows, classes.ids, context, tells_numbers=config.label is not None)
    kept = np.flatnonzero(found.numbers >= 0)
    first = rows_of_images(table, rows[kept], found.numbers[kept], context)
    notes = [*found.notes, *_left_out(context, len(kept) - len(first), len(kept), "rows of an image with another row")]
    rows, labels = rows[kept][first], found.numbers[kept][first]
    check_images(table, rows, context)
    classes, unused = _languages_of_images(classes, labels, context)
    return ClassificationSet(
        name=name,
        identity=table.identity,
        notes=[*notes, *unused],
        interval=config.interval,
        tie_rule=config.tie_rule.value,
        images=SelectedImages(table, rows),
        labels=torch.from_numpy(labels),
        classes=classes,
    )


def build_choice_set(
    name: str, config: ChoiceSetConfig, data_folder: str | None = None, section: str = "evaluation.choices"
) -> ChoiceSet:
    """The questions of the rows that satisfy `where`; `section` holds the set, for messages.

    Raises:
        DataError: A file is missing or damaged, a question has fewer than two options, or an answer is none of them.
    """
    context = f"{section}.{name}"
    columns = [*([config.question] if config.question else []), config.answer, *config.options]
    table = _open(config.table, context, data_folder, [*columns, *config.where])
    rows = _matching(table, config.where, context)
    cells = {column: table.cells(column, rows) for column in dict.fromkeys(columns)}
    read = [
        option_texts(config, {column: values[place] for column, values in cells.items()}, f"{context}: row {row}")
        for place, row in enumerate(rows)
    ]
    check_images(table, rows, context)
    return ChoiceSet(
        name=name,
        identity=table.identity,
        interval=config.interval,
        tie_rule=config.tie_rule.value,
        language=config.language,
        images=SelectedImages(table, rows),
        texts=[texts for texts, _ in read],
        answers=torch.tensor([answer for _, answer in read]),
    )


def shared_positives(positives: Tensor, captions: Sequence[str]) -> Tensor:
    """The pairs, and those of each image with every other caption that reads as one of its own.

    Args:
        positives: int64 (P, 2), pairs (image, caption).
        captions: M texts.

    Returns:
        int64 (P', 2), each pair once.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    text_of = torch.tensor([numbers[text] for text in captions])
    pairs = torch.unique(torch.stack([positives[:, 0], text_of[positives[:, 1]]], dim=1), dim=0)
    by_text = torch.argsort(text_of, stable=True)
    counts = torch.bincount(text_of, minlength=len(numbers))
    first = counts.cumsum(0) - counts
    repeats = counts[pairs[:, 1]]
    place = torch.arange(int(repeats.sum())) - (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    caption = by_text[first[pairs[:, 1]].repeat_interleave(repeats) + place]
    found: Tensor = torch.unique(torch.stack([pairs[:, 0].repeat_interleave(repeats), caption], dim=1), dim=0)
    return found


def evaluation_fingerprints(config: EvaluationConfig) -> dict[str, tuple[FileFingerprint, ...]]:
    """`retrieval.NAME`, ... `choices.NAME` -> fingerprints of a set's files, without reading them.

    Raises:
        DataError: A file is missing or damaged.
    """
    tables = {f"retrieval.{name}": one.table for name, one in config.retrieval.items()}
    tables |= {f"captions.{name}": one.table for name, one in config.captions.items()}
    tables |= {f"classification.{name}": one.table for name, one in config.classification.items()}
    tables |= {f"choices.{name}": one.table for name, one in config.choices.items()}
    found = {name: sample_fingerprints(table, config.data_folder) for name, table in tables.items()}
    for name, one in config.classification.items():
        if one.classes_file is not None:
            found[f"classification.{name}"] += (text_fingerprint(in_folder(one.classes_file, config.data_folder)),)
    return found


_LABELS = {Layout.clip_benchmark: "cls", Layout.image_folder: "class"}
"""Layout -> its column of classes."""


def _open(
    config: TableConfig, context: str, data_folder: str | None, columns: Sequence[str], *, needs_images: bool = True
) -> SampleTable:
    wanted = [*columns, *config.captions.values()]
    if config.concept not in (None, _DEFAULT_CONCEPT):
        wanted.append(config.concept)
    return open_samples(config, context, data_folder=data_folder, needs_images=needs_images, columns=wanted)


def _matching(table: SampleTable, where: Mapping[str, Sequence[str]], context: str) -> RowIds:
    """The rows that satisfy every condition, ascending.

    Raises:
        DataError: No row does.
    """
    rows = np.arange(len(table), dtype=np.int64)
    for column, allowed in where.items():
        values = frozenset(allowed)
        rows = rows[[as_text(cell) in values for cell in table.cells(column, rows)]]
    if not len(rows):
        raise DataError(f"{context}: no row has {dict(where)}; correct `where` or `gallery`")
    return rows


def _positives(image_concepts: Tensor, counts: Tensor) -> Tensor:
    """int64 (P, 2): each image with all captions of its concept; `counts` are the captions of each concept."""
    repeats = counts[image_concepts]
    first = (counts.cumsum(0) - counts)[image_concepts]
    place = torch.arange(int(repeats.sum())) - (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    images = torch.arange(len(image_concepts)).repeat_interleave(repeats)
    return torch.stack([images, first.repeat_interleave(repeats) + place], dim=1)


def _class_names(config: ClassificationSetConfig, context: str, data_folder: str | None) -> ClassNames:
    if config.classes_file is not None:
        return read_class_names(in_folder(config.classes_file, data_folder), f"{context}.classes_file")
    if config.table.layout is not Layout.clip_benchmark:
        raise DataError(f"{context}.classes_file is missing: name a YAML file of class names and templates")
    try:
        names, templates = read_class_files(only_folder(config.table, Layout.clip_benchmark, data_folder))
    except DataError as error:
        raise DataError(f"{context}: {error}, or set classes_file") from error
    return ClassNames(
        ids=[str(number) for number in range(len(names))],
        names={"en": [[name] for name in names]},
        templates={"en": templates},
    )


def _languages_of_images(classes: ClassNames, labels: NDArray[np.int64], context: str) -> tuple[ClassNames, list[str]]:
    """The classes in the languages in which the class of some image has a name, and notes on the others.

    Raises:
        DataError: There is no such language.
    """
    used = np.unique(labels).tolist()
    kept = [language for language, names in classes.names.items() if any(names[one] for one in used)]
    dropped = [language for language in classes.names if language not in kept]
    if not kept:
        raise DataError(f"{context}: no class of an image has a name in {' or '.join(dropped)}; name it there")
    found = ClassNames(
        ids=classes.ids,
        names={language: classes.names[language] for language in kept},
        templates={language: classes.templates[language] for language in kept},
    )
    notes = [f"{context}: no class of an image has a name in {one}; there are no metrics in {one}" for one in dropped]
    for language in kept:
        unnamed = sum(1 for number in labels.tolist() if not classes.names[language][number])
        notes += _left_out(context, unnamed, len(labels), f"images of classes without a name in {language}")
    return found, notes


def _left_out(context: str, number: int, total: int, what: str) -> list[str]:
    return [f"{context}: {number} of {total} {what} are left out"] if number else []
