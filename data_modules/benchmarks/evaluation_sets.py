"""Evaluation sets and image galleries: images, captions and classes read from parquet tables.

Shapes: N images, M gallery captions or images, K classes, S image side.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.benchmarks.class_names import ClassNames, read_class_names
from data_modules.config_roles import REPORTING, at_least, check_ranges
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.transforms.evaluation import evaluation_image
from data_modules.records import LANGUAGES
from data_modules.sources.fingerprint import FileFingerprint, table_fingerprint, text_fingerprint
from data_modules.sources.tables import as_text, identities, matching_rows, open_table
from data_modules.text.cleaning import clean_texts


@dataclass(kw_only=True, slots=True)
class TableConfig:
    """The parquet table of an evaluation set."""

    files: list[str]
    """Parquet files or glob patterns; `package:` paths are relative to the installed `data_modules` folder."""
    image: str = "image"
    """Column of encoded images."""
    captions: dict[str, str] = field(default_factory=dict)
    """Language -> caption column, one text per row."""
    concept: str = "concept"
    """Column of concepts; rows with equal values share a caption."""
    key: str = "key"
    """Column that identifies an image in logs and panels."""


@dataclass(kw_only=True, slots=True)
class GalleryConfig:
    """Images that an analysis searches, from parquet files."""

    files: list[str]
    """Parquet files or glob patterns; `package:` paths are relative to the installed `data_modules` folder."""
    image: str = "image"
    """Column of encoded images."""
    key: str = "key"
    """Column that identifies an image; its values are unique among the selected rows."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows, column -> allowed values; empty: all rows."""


@dataclass(kw_only=True, slots=True)
class RetrievalSetConfig:
    """Images and a gallery of captions in each language."""

    table: TableConfig
    """Table of the images and captions."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows whose images are queries."""
    gallery: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows whose captions form the gallery; empty: all rows."""


@dataclass(kw_only=True, slots=True)
class CaptionSetConfig:
    """Captions of the same concepts in both languages, without images: cross-lingual retrieval."""

    table: TableConfig
    """Table of the captions."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows."""


@dataclass(kw_only=True, slots=True)
class ClassificationSetConfig:
    """Zero-shot classification: images with a class column, and class names with templates per language."""

    table: TableConfig
    """Table of the images."""
    label: str
    """Column of class ids."""
    classes_file: str
    """YAML with `classes` (id -> language -> names) and `templates` (language -> texts with `{}` and particles such as
    `{을/를}`), each a text or a list of them."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows; rows of classes missing from the file are excluded."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """Evaluation sets of a run and the evaluation interval."""

    every_n_steps: int = field(default=500, metadata=REPORTING | at_least(1))
    """Optimizer steps between evaluations; step 0 and the last step are always evaluated."""
    retrieval: dict[str, RetrievalSetConfig] = field(default_factory=dict)
    """Name -> image–caption retrieval set."""
    captions: dict[str, CaptionSetConfig] = field(default_factory=dict)
    """Name -> cross-lingual caption retrieval set."""
    classification: dict[str, ClassificationSetConfig] = field(default_factory=dict)
    """Name -> zero-shot classification set."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True)
class ImageSet:
    """Decoded images, with digests to recognise equal images of other sets."""

    name: str
    images: Tensor
    """uint8 (N, 3, S, S)."""
    digests: list[bytes] = field(init=False)
    """N hashes of the pixels."""

    def __post_init__(self) -> None:
        self.digests = image_digests(self.images)


@dataclass(kw_only=True, slots=True)
class RetrievalSet(ImageSet):
    """Images, and a gallery of captions with one correct caption per image."""

    captions: dict[str, list[str]]
    """Language -> M captions, in the same order in every language."""
    target: Tensor
    """int64 (N,), the gallery index of each image's caption."""
    image_keys: list[str]
    """N keys for logs."""


@dataclass(kw_only=True, slots=True)
class CaptionSet:
    """Captions of the same M concepts in each language, aligned by index."""

    name: str
    captions: dict[str, list[str]]


@dataclass(kw_only=True, slots=True)
class ClassificationSet(ImageSet):
    """Labelled images, and the names and templates of the classes."""

    labels: Tensor
    """int64 (N,), in [0, K)."""
    class_names: dict[str, list[list[str]]]
    """Language -> K lists of one or more names."""
    templates: dict[str, list[str]]
    """Language -> templates with one `{}`."""


@dataclass(kw_only=True, slots=True)
class EvaluationSets:
    """All sets of an experiment."""

    retrieval: list[RetrievalSet] = field(default_factory=list)
    captions: list[CaptionSet] = field(default_factory=list)
    classification: list[ClassificationSet] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class ImageGallery:
    """Decoded images with some columns of their table."""

    images: Tensor
    """uint8 (M, 3, S, S)."""
    keys: list[str]
    """M unique keys."""
    columns: dict[str, list[str]]
    """Column -> M values as text."""


def image_digests(images: Tensor) -> list[bytes]:
    """A 16-byte hash of pixels and size for each image of uint8 (N, 3, H, W)."""
    start = str(tuple(images.shape[1:])).encode()
    return [hashlib.blake2b(start + image.tobytes(), digest_size=16).digest() for image in images.numpy()]


def build_evaluation_sets(config: EvaluationConfig, image_size: int) -> EvaluationSets:
    """Read every configured set; images are decoded to uint8 (3, image_size, image_size).

    Raises:
        DataError: A file is missing or damaged, or a set is empty or inconsistent.
    """
    return EvaluationSets(
        retrieval=[build_retrieval_set(name, one, image_size) for name, one in config.retrieval.items()],
        captions=[build_caption_set(name, one) for name, one in config.captions.items()],
        classification=[build_classification_set(name, one, image_size) for name, one in config.classification.items()],
    )


def build_retrieval_set(name: str, config: RetrievalSetConfig, image_size: int) -> RetrievalSet:
    """Images of the rows that satisfy `where`, against the distinct concepts of the `gallery` rows."""
    table, context = _open(config.table), f"evaluation.retrieval.{name}"
    gallery_rows = _distinct_concepts(table, matching_rows(table, config.gallery), config.table.concept, context)
    index_of = {concept: i for i, concept in enumerate(identities(table, config.table.concept, gallery_rows, context))}
    rows = matching_rows(table, config.where)
    concepts = identities(table, config.table.concept, rows, context)
    missing = [concept for concept in concepts if concept not in index_of]
    if missing or not len(rows):
        problem = f"the caption of '{missing[0]}' is not in its gallery" if missing else "no image satisfies `where`"
        raise DataError(f"{context}: {problem}; correct its `where` or `gallery`")
    return RetrievalSet(
        name=name,
        images=_images(table, config.table, rows, image_size, context),
        captions=_captions(table, config.table.captions, gallery_rows, context),
        target=torch.tensor([index_of[concept] for concept in concepts]),
        image_keys=identities(table, config.table.key, rows, context),
    )


def build_caption_set(name: str, config: CaptionSetConfig) -> CaptionSet:
    """The captions of the distinct concepts among the rows that satisfy `where`, in every language."""
    table, context = _open(config.table), f"evaluation.captions.{name}"
    rows = _distinct_concepts(table, matching_rows(table, config.where), config.table.concept, context)
    if set(config.table.captions) != set(LANGUAGES) or len(rows) < 2:
        raise DataError(f"{context} needs two rows or more with captions in {' and '.join(LANGUAGES)}")
    return CaptionSet(name=name, captions=_captions(table, config.table.captions, rows, context))


def build_classification_set(name: str, config: ClassificationSetConfig, image_size: int) -> ClassificationSet:
    """Images of the rows whose label the classes file names."""
    table, context = _open(config.table), f"evaluation.classification.{name}"
    classes = _complete_classes(config.classes_file, context)
    ids = classes.ids
    rows = np.intersect1d(matching_rows(table, config.where), matching_rows(table, {config.label: ids}))
    if not len(rows):
        raise DataError(f"{context}: no image has one of the {len(ids)} classes; check `label`")
    return ClassificationSet(
        name=name,
        images=_images(table, config.table, rows, image_size, context),
        labels=torch.tensor([ids.index(label) for label in identities(table, config.label, rows, context)]),
        class_names={language: classes.names[language] for language in LANGUAGES},
        templates={language: classes.templates[language] for language in LANGUAGES},
    )


def build_image_gallery(config: GalleryConfig, image_size: int, columns: Sequence[str] = ()) -> ImageGallery:
    """The images of the rows that satisfy `where`, with further columns.

    Raises:
        DataError: A file or column is missing, no row matches, or keys are not unique.
    """
    table, context = open_table(config.files, config.image, [config.key, *columns]), ", ".join(config.files)
    rows = matching_rows(table, config.where)
    if not len(rows):
        raise DataError(f"no row of {context} satisfies `where` = {config.where}; loosen it")
    keys = identities(table, config.key, rows, context)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(
            f"{context}: '{twice}' is not unique in the column '{config.key}'; "
            "name a column of unique values as `key`, or narrow `where`"
        )
    return ImageGallery(
        images=_images(table, config, rows, image_size, context),
        keys=keys,
        columns={name: [as_text(value) for value in _cells(table, name, rows)] for name in columns},
    )


def evaluation_fingerprints(config: EvaluationConfig) -> dict[str, tuple[FileFingerprint, ...]]:
    """`retrieval.NAME`, `captions.NAME`, `classification.NAME` -> fingerprints of a set's files, without reading them.

    Raises:
        DataError: A file is missing or damaged.
    """
    tables = {f"retrieval.{name}": one.table for name, one in config.retrieval.items()}
    tables |= {f"captions.{name}": one.table for name, one in config.captions.items()}
    tables |= {f"classification.{name}": one.table for name, one in config.classification.items()}
    found = {name: table_fingerprint(table.files) for name, table in tables.items()}
    for name, classes in config.classification.items():
        found[f"classification.{name}"] += (text_fingerprint(classes.classes_file),)
    return found


def _complete_classes(file: str, context: str) -> ClassNames:
    """The classes of a file, each with names in every language.

    Raises:
        DataError: The file is missing or malformed, or a class lacks a language.
    """
    classes = read_class_names(file, f"{context}.classes_file")
    for language in LANGUAGES:
        if language not in classes.templates:
            raise DataError(f"{context}.classes_file: {file} has no templates in {language}; add templates.{language}")
        if unnamed := [one for one, names in zip(classes.ids, classes.names[language], strict=True) if not names]:
            raise DataError(
                f"{context}.classes_file: {file}: the class '{unnamed[0]}' has no name in {language}; add it"
            )
    return classes


def _open(config: TableConfig) -> datasets.Dataset:
    return open_table(config.files, config.image, [config.concept, config.key, *config.captions.values()])


def _distinct_concepts(table: datasets.Dataset, rows: Any, concept: str, context: str) -> Any:
    first = np.unique(np.array(identities(table, concept, rows, context)), return_index=True)[1]
    return rows[np.sort(first)]


def _cells(table: datasets.Dataset, column: str, rows: Any) -> Iterable[Any]:
    cells: Iterable[Any] = table.select_columns([column]).select(rows)[column]
    return cells


def _captions(table: datasets.Dataset, columns: Mapping[str, str], rows: Any, context: str) -> dict[str, list[str]]:
    return {
        language: [
            _caption(value, columns[language], f"{context}: row {row}")
            for row, value in zip(rows, _cells(table, columns[language], rows), strict=True)
        ]
        for language in LANGUAGES
        if language in columns
    }


def _caption(value: object, column: str, context: str) -> str:
    try:
        texts = clean_texts(value, column, [])
    except SampleFault as fault:
        raise DataError(f"{context}: {fault.detail}; evaluation needs one text") from fault
    if len(texts) != 1:
        raise DataError(
            f"{context}: the column '{column}' holds {len(texts)} texts, and evaluation needs one; write one caption "
            "per row, or remove the row"
        )
    return texts[0]


def _images(
    table: datasets.Dataset, config: TableConfig | GalleryConfig, rows: Any, image_size: int, context: str
) -> Tensor:
    keys = identities(table, config.key, rows, context)
    cells = zip(_cells(table, config.image, rows), keys, strict=True)
    images = [table_image(cell, image_size, f"{context}: image '{key}'") for cell, key in cells]
    return torch.from_numpy(np.stack(images))


def table_image(cell: object, image_size: int, context: str) -> NDArray[np.uint8]:
    """The evaluation image of a table's cell with `bytes`, uint8 (3, S, S); `context` names it in errors.

    Raises:
        DataError: The cell holds no bytes, or they are not an image.
    """
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(content, bytes):
        raise DataError(f"{context} is {type(content).__name__}, not the bytes of a file; store the image in the table")
    try:
        return evaluation_image(content, image_size)
    except SampleFault as fault:
        raise DataError(f"{context}: {fault}; replace it, or remove its row") from fault
