"""Evaluation sets: images, captions and classes ready to be embedded, built from a configuration.

Shapes: N images, M gallery captions, K classes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from torch import Tensor

from data_modules.config_roles import REPORTING, at_least, check_ranges
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.transforms.evaluation import table_image
from data_modules.paths import resolve_path
from data_modules.records import LANGUAGES
from data_modules.sources.tables import as_text, identities, matching_rows, open_table
from data_modules.text.cleaning import clean_texts, text_list


@dataclass(kw_only=True, slots=True)
class TableConfig:
    """The parquet table that an evaluation set is cut from."""

    files: list[str]
    """Parquet files or glob patterns; `package:` paths are relative to the installed `data_modules` folder."""
    image: str = "image"
    """Column of encoded images."""
    captions: dict[str, str] = field(default_factory=dict)
    """Language -> caption column, one text a row."""
    concept: str = "concept"
    """Column that says which rows show the same thing: equal values share a caption."""
    key: str = "key"
    """Column that identifies an image in logs and panels."""


@dataclass(kw_only=True, slots=True)
class RetrievalSetConfig:
    """Images against a gallery of captions, per language."""

    table: TableConfig
    """Where images and captions come from."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows whose images are queries."""
    gallery: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows whose captions form the gallery; empty: all rows of the table."""


@dataclass(kw_only=True, slots=True)
class CaptionSetConfig:
    """Captions of the same things in both languages, never an image: cross-lingual retrieval."""

    table: TableConfig
    """Where the captions come from."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows."""


@dataclass(kw_only=True, slots=True)
class ClassificationSetConfig:
    """Zero-shot classification: images with a class column, and class names with templates per language."""

    table: TableConfig
    """Where the images come from."""
    label: str
    """Column of class ids."""
    classes_file: str
    """YAML with `classes` (id -> language -> names) and `templates` (language -> texts with `{}`), each a text or a
    list of them."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows; rows of classes that the file does not name are left out."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """What is evaluated during training, and how often."""

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
class RetrievalSet:
    """Images and the captions among which each image's own is sought."""

    name: str
    images: Tensor
    """uint8 (N, 3, H, W)."""
    captions: dict[str, list[str]]
    """Language -> M captions, in the same order of concepts in every language."""
    target: Tensor
    """int64 (N,), the gallery index of each image's caption."""
    image_keys: list[str]
    """N identities for logs."""
    digests: list[bytes] = field(init=False)
    """N digests of pixels: equal for the same picture in whatever set."""

    def __post_init__(self) -> None:
        self.digests = image_digests(self.images)


@dataclass(kw_only=True, slots=True)
class CaptionSet:
    """Captions of the same M things in each language, aligned by index."""

    name: str
    captions: dict[str, list[str]]


@dataclass(kw_only=True, slots=True)
class ClassificationSet:
    """Labelled images, and the names and templates that describe the classes in words."""

    name: str
    images: Tensor
    """uint8 (N, 3, H, W)."""
    labels: Tensor
    """int64 (N,), in [0, K)."""
    class_names: dict[str, list[list[str]]]
    """Language -> K lists of one or more names."""
    templates: dict[str, list[str]]
    """Language -> templates with one `{}`."""
    digests: list[bytes] = field(init=False)
    """N digests of pixels: equal for the same picture in whatever set."""

    def __post_init__(self) -> None:
        self.digests = image_digests(self.images)


@dataclass(kw_only=True, slots=True)
class EvaluationSets:
    """All sets of an experiment."""

    retrieval: list[RetrievalSet] = field(default_factory=list)
    captions: list[CaptionSet] = field(default_factory=list)
    classification: list[ClassificationSet] = field(default_factory=list)


def image_digests(images: Tensor) -> list[bytes]:
    """Of each image of (N, 3, H, W) uint8, 16 bytes that follow from its pixels and size alone."""
    start = str(tuple(images.shape[1:])).encode()
    return [hashlib.blake2b(start + image.tobytes(), digest_size=16).digest() for image in images.numpy()]


def build_evaluation_sets(config: EvaluationConfig, image_size: int) -> EvaluationSets:
    """Read and decode every configured set; images come out square with side image_size.

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
    table, told = _open(config.table), f"evaluation.retrieval.{name}"
    gallery_rows = _distinct_concepts(table, matching_rows(table, config.gallery), config.table.concept, told)
    index_of = {concept: i for i, concept in enumerate(identities(table, config.table.concept, gallery_rows, told))}
    rows = matching_rows(table, config.where)
    concepts = identities(table, config.table.concept, rows, told)
    missing = [concept for concept in concepts if concept not in index_of]
    if missing or not len(rows):
        problem = f"the caption of '{missing[0]}' is not in its gallery" if missing else "no image satisfies `where`"
        raise DataError(f"{told}: {problem}; correct its `where` or `gallery`")
    return RetrievalSet(
        name=name,
        images=_images(table, config.table, rows, image_size, told),
        captions=_captions(table, config.table.captions, gallery_rows, told),
        target=torch.tensor([index_of[concept] for concept in concepts]),
        image_keys=identities(table, config.table.key, rows, told),
    )


def build_caption_set(name: str, config: CaptionSetConfig) -> CaptionSet:
    """The captions of the distinct concepts among the rows that satisfy `where`, in every language."""
    table, told = _open(config.table), f"evaluation.captions.{name}"
    rows = _distinct_concepts(table, matching_rows(table, config.where), config.table.concept, told)
    if set(config.table.captions) != set(LANGUAGES) or len(rows) < 2:
        raise DataError(f"{told} needs two rows or more with captions in {' and '.join(LANGUAGES)}")
    return CaptionSet(name=name, captions=_captions(table, config.table.captions, rows, told))


def build_classification_set(name: str, config: ClassificationSetConfig, image_size: int) -> ClassificationSet:
    """Images of the rows whose label the classes file names."""
    table, told = _open(config.table), f"evaluation.classification.{name}"
    classes, templates = _load_classes(told, config.classes_file)
    ids = list(classes)
    rows = np.intersect1d(matching_rows(table, config.where), matching_rows(table, {config.label: ids}))
    if not len(rows):
        raise DataError(f"{told}: no image has one of the {len(ids)} classes; check `label`")
    return ClassificationSet(
        name=name,
        images=_images(table, config.table, rows, image_size, told),
        labels=torch.tensor([ids.index(label) for label in identities(table, config.label, rows, told)]),
        class_names={language: [classes[one][language] for one in ids] for language in LANGUAGES},
        templates=templates,
    )


NamesByLanguage = dict[str, list[str]]


def _load_classes(told: str, file: str) -> tuple[dict[str, NamesByLanguage], NamesByLanguage]:
    """Class id -> language -> names, and language -> templates; a bare text stands for a list of one.

    Raises:
        DataError: The file is missing, or not of that form.
    """
    path = resolve_path(file)
    if not path.is_file():
        raise DataError(f"{told}.classes_file: {path} does not exist")
    loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        classes = {as_text(one): _by_language(names) for one, names in loaded["classes"].items()}
        templates = _by_language(loaded["templates"])
        if wrong := [one for some in templates.values() for one in some if one.count("{}") != 1]:
            raise ValueError(f"the template {wrong[0]!r} must hold {{}} once")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        languages = " and ".join(LANGUAGES)
        raise DataError(
            f"{path} needs `classes` (id -> names) and `templates`, each a text or a list of texts in {languages} "
            f"({error!r})"
        ) from error
    return classes, templates


def _by_language(given: Any) -> NamesByLanguage:
    return {language: text_list(given[language]) for language in LANGUAGES}


def _open(config: TableConfig) -> datasets.Dataset:
    return open_table(config.files, config.image, [config.concept, config.key, *config.captions.values()])


def _distinct_concepts(table: datasets.Dataset, rows: Any, concept: str, told: str) -> Any:
    first = np.unique(np.array(identities(table, concept, rows, told)), return_index=True)[1]
    return rows[np.sort(first)]


def _captions(table: datasets.Dataset, columns: Mapping[str, str], rows: Any, told: str) -> dict[str, list[str]]:
    return {
        language: [
            _caption(value, columns[language], f"{told}: row {row}")
            for row, value in zip(
                rows, table.select_columns([columns[language]]).select(rows)[columns[language]], strict=True
            )
        ]
        for language in LANGUAGES
        if language in columns
    }


def _caption(value: object, column: str, told: str) -> str:
    try:
        texts = clean_texts(value, column, [])
    except SampleFault as fault:
        raise DataError(f"{told}: {fault.detail}; evaluation compares with one text") from fault
    if len(texts) != 1:
        raise DataError(
            f"{told}: the column '{column}' holds {len(texts)} texts, and evaluation compares with one; write one "
            "caption a row, or leave the row out"
        )
    return texts[0]


def _images(table: datasets.Dataset, config: TableConfig, rows: Any, image_size: int, told: str) -> Tensor:
    cells = table.select_columns([config.image]).select(rows)[config.image]
    keys = identities(table, config.key, rows, told)
    pixels = [table_image(cell, image_size, f"{told}: image '{key}'") for cell, key in zip(cells, keys, strict=True)]
    return torch.from_numpy(np.stack(pixels))
