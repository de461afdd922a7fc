"""Evaluation sets: images, captions and classes ready to be embedded, built from a configuration.

Shapes: N images, M gallery captions, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from torch import Tensor

from data_modules.errors import DataError
from data_modules.records import LANGUAGES
from data_modules.sources.fingerprint import FileFingerprint, table_fingerprint, text_fingerprint
from data_modules.sources.paths import resolve_path
from data_modules.sources.tables import as_text, matching_rows, open_table
from data_modules.transforms.evaluation import evaluation_image


@dataclass(kw_only=True, slots=True)
class TableConfig:
    """The parquet table that an evaluation set is cut from."""

    files: list[str]
    """Parquet files or glob patterns; `package:` paths are relative to the installed `data_modules` folder."""
    image: str = "image"
    """Column of encoded images."""
    captions: dict[str, str] = field(default_factory=dict)
    """Language -> caption column."""
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
    """YAML with `classes` (id -> language -> names) and `templates` (language -> list with `{}`)."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows; rows of classes that the file does not name are left out."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """What is evaluated during training, and how often."""

    every_n_steps: int = 500
    """Optimizer steps between evaluations; step 0 and the last step are always evaluated."""
    retrieval: dict[str, RetrievalSetConfig] = field(default_factory=dict)
    """Name -> image–caption retrieval set."""
    captions: dict[str, CaptionSetConfig] = field(default_factory=dict)
    """Name -> cross-lingual caption retrieval set."""
    classification: dict[str, ClassificationSetConfig] = field(default_factory=dict)
    """Name -> zero-shot classification set."""

    def __post_init__(self) -> None:
        if self.every_n_steps < 1:
            raise ValueError(f"every_n_steps = {self.every_n_steps} must be at least 1")


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


@dataclass(kw_only=True, slots=True)
class EvaluationSets:
    """All sets of an experiment."""

    retrieval: list[RetrievalSet] = field(default_factory=list)
    captions: list[CaptionSet] = field(default_factory=list)
    classification: list[ClassificationSet] = field(default_factory=list)


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


def evaluation_fingerprints(config: EvaluationConfig) -> dict[str, tuple[FileFingerprint, ...]]:
    """`retrieval.NAME`, `captions.NAME`, `classification.NAME` -> what is known of a set's files without reading them.

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


def build_retrieval_set(name: str, config: RetrievalSetConfig, image_size: int) -> RetrievalSet:
    """Images of the rows that satisfy `where`, against the distinct concepts of the `gallery` rows."""
    table = _open(config.table)
    gallery_rows = _distinct_concepts(table, matching_rows(table, config.gallery), config.table.concept)
    index_of = {concept: i for i, concept in enumerate(_column(table, config.table.concept, gallery_rows))}
    rows = matching_rows(table, config.where)
    concepts = _column(table, config.table.concept, rows)
    missing = [concept for concept in concepts if concept not in index_of]
    if missing or not len(rows):
        problem = f"the caption of '{missing[0]}' is not in its gallery" if missing else "no image satisfies `where`"
        raise DataError(f"evaluation.retrieval.{name}: {problem}; correct its `where` or `gallery`")
    return RetrievalSet(
        name=name,
        images=_images(table, config.table.image, rows, image_size),
        captions=_captions(table, config.table.captions, gallery_rows),
        target=torch.tensor([index_of[concept] for concept in concepts]),
        image_keys=_column(table, config.table.key, rows),
    )


def build_caption_set(name: str, config: CaptionSetConfig) -> CaptionSet:
    """The captions of the distinct concepts among the rows that satisfy `where`, in every language."""
    table = _open(config.table)
    rows = _distinct_concepts(table, matching_rows(table, config.where), config.table.concept)
    if set(config.table.captions) != set(LANGUAGES) or len(rows) < 2:
        raise DataError(f"evaluation.captions.{name} needs two rows or more with captions in {' and '.join(LANGUAGES)}")
    return CaptionSet(name=name, captions=_captions(table, config.table.captions, rows))


def build_classification_set(name: str, config: ClassificationSetConfig, image_size: int) -> ClassificationSet:
    """Images of the rows whose label the classes file names."""
    table = _open(config.table)
    description = _load_classes(name, config.classes_file)
    classes = {as_text(one): names for one, names in description["classes"].items()}
    ids = list(classes)
    rows = np.intersect1d(matching_rows(table, config.where), matching_rows(table, {config.label: ids}))
    if not len(rows):
        raise DataError(f"evaluation.classification.{name}: no image has one of the {len(ids)} classes; check `label`")
    return ClassificationSet(
        name=name,
        images=_images(table, config.table.image, rows, image_size),
        labels=torch.tensor([ids.index(label) for label in _column(table, config.label, rows)]),
        class_names={language: [list(classes[one][language]) for one in ids] for language in LANGUAGES},
        templates={language: list(description["templates"][language]) for language in LANGUAGES},
    )


def _load_classes(name: str, file: str) -> Mapping[str, Any]:
    path = resolve_path(file)
    if not path.is_file():
        raise DataError(f"evaluation.classification.{name}.classes_file: {path} does not exist")
    loaded: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        described = [*loaded["classes"].values(), loaded["templates"]]
        complete = all(one[language] for one in described for language in LANGUAGES)
    except (KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        languages = " and ".join(LANGUAGES)
        raise DataError(f"{path} needs `classes` (id -> names) and `templates`, each in {languages}")
    return loaded


def _open(config: TableConfig) -> datasets.Dataset:
    return open_table(config.files, config.image, [config.concept, config.key, *config.captions.values()])


def _column(table: datasets.Dataset, column: str, rows: Any) -> list[str]:
    return [as_text(value) for value in table.select_columns([column]).select(rows)[column]]


def _distinct_concepts(table: datasets.Dataset, rows: Any, concept: str) -> Any:
    first = np.unique(np.array(_column(table, concept, rows)), return_index=True)[1]
    return rows[np.sort(first)]


def _captions(table: datasets.Dataset, columns: Mapping[str, str], rows: Any) -> dict[str, list[str]]:
    return {language: _column(table, columns[language], rows) for language in LANGUAGES if language in columns}


def _images(table: datasets.Dataset, image: str, rows: Any, image_size: int) -> Tensor:
    cells = table.select_columns([image]).select(rows)[image]
    return torch.from_numpy(np.stack([evaluation_image(cell["bytes"], image_size) for cell in cells]))
