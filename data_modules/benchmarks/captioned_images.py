"""The images of a retrieval set with the captions of their concepts, and the captions of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_modules.benchmarks.config import TableConfig
from data_modules.benchmarks.layouts.joined_texts import joined_captions
from data_modules.benchmarks.same_images import same_images
from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.languages import LANGUAGES
from data_modules.sources.tables import as_text
from data_modules.text.cleaning import clean_texts


@dataclass(slots=True, kw_only=True)
class CaptionedImages:
    """N images, and C concepts with their captions."""

    rows: RowIds
    """int64 (N,): a row of each image."""
    concept_of: NDArray[np.int64]
    """int64 (N,): the concept of each image, in [0, C)."""
    texts: dict[str, list[list[str]]]
    """Language -> the captions of each concept; none for a concept without."""
    notes: list[str] = field(default_factory=list)
    """What was not used, for the user."""


def captioned_by_concept(
    table: SampleTable, config: TableConfig, rows: RowIds, gallery: RowIds, context: str, data_folder: str | None
) -> CaptionedImages:
    """Each row is an image with the captions of the first gallery row of its concept.

    Raises:
        DataError: A row has no concept, a concept is not in the gallery, or captions cannot be read.
    """
    names, first = distinct(concepts_of(table, config, gallery, context))
    number = {concept: place for place, concept in enumerate(names)}
    concepts = concepts_of(table, config, rows, context)
    if missing := [one for one in concepts if one not in number]:
        raise DataError(f"{context}: the caption of '{missing[0]}' is not in its gallery; correct `where` or `gallery`")
    return CaptionedImages(
        rows=rows,
        concept_of=np.array([number[one] for one in concepts], dtype=np.int64),
        texts=row_captions(table, config, gallery[first], context, data_folder),
        notes=_other_captions(table, config, gallery, context),
    )


def captioned_by_image(
    table: SampleTable, config: TableConfig, rows: RowIds, gallery: RowIds, context: str, data_folder: str | None
) -> CaptionedImages:
    """Each image, which may have several rows, is a concept of its own, with the captions of all its gallery rows.

    Raises:
        DataError: Two images have one key, an image is not in the gallery, or captions cannot be read.
    """
    shown = same_images(table, gallery, context)
    number = {name: place for place, name in enumerate(shown.names)}
    images = same_images(table, rows, context)
    if missing := [name for name in images.names if name not in number]:
        raise DataError(
            f"{context}: the captions of the image '{missing[0]}' are not in its gallery; correct `where` or `gallery`"
        )
    texts = row_captions(table, config, gallery[shown.first], context, data_folder)
    if len(shown.names) < len(gallery):
        for language, column in config.captions.items():
            merged: list[list[str]] = [[] for _ in shown.names]
            cells = _clean_cells(table, column, gallery, context)
            for image, captions in zip(shown.image_of.tolist(), cells, strict=True):
                merged[image] += [one for one in captions if one not in merged[image]]
            texts[language] = merged
    return CaptionedImages(
        rows=rows[images.first],
        concept_of=np.array([number[name] for name in images.names], dtype=np.int64),
        texts=texts,
    )


def concepts_of(table: SampleTable, config: TableConfig, rows: RowIds, context: str) -> list[str]:
    """What the captions of each row are the captions of: the cell of `concept`, or the row itself."""
    if config.concept not in table.columns:
        return [str(row) for row in rows]
    assert config.concept is not None
    cells = table.cells(config.concept, rows)
    for row, cell in zip(rows, cells, strict=True):
        if cell is None:
            raise DataError(
                f"{context}: row {row} has nothing in the column '{config.concept}'; fill it, leave the row out, or "
                "set concept = null"
            )
    return [as_text(cell) for cell in cells]


def distinct(concepts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct concepts in the order of their first rows, and those rows' positions."""
    first: dict[str, int] = {}
    for place, concept in enumerate(concepts):
        first.setdefault(concept, place)
    return list(first), np.array(list(first.values()), dtype=np.int64)


def row_captions(
    table: SampleTable, config: TableConfig, rows: RowIds, context: str, data_folder: str | None
) -> dict[str, list[list[str]]]:
    """Language, in the order of `LANGUAGES` -> the clean captions of each row; none for a row without."""
    found: dict[str, list[list[str]]] = {}
    for language in LANGUAGES:
        if language in config.captions:
            found[language] = list(_clean_cells(table, config.captions[language], rows, context))
        elif language in config.texts:
            owner = f"{context}.table.texts.{language}"
            joined = joined_captions(config.texts[language], table.keys(rows), owner, data_folder)
            found[language] = [_clean(cell, config.texts[language].captions, owner) for cell in joined]
    return found


def _clean_cells(table: SampleTable, column: str, rows: RowIds, context: str) -> Iterator[list[str]]:
    for row, cell in zip(rows, table.cells(column, rows), strict=True):
        yield _clean(cell, column, f"{context}: row {row}")


def _clean(cell: object, column: str, context: str) -> list[str]:
    try:
        return list(clean_texts(cell, column, []))
    except SampleFault as fault:
        raise DataError(f"{context}: {fault.detail}; a caption is a text or a list of texts") from fault


def _other_captions(table: SampleTable, config: TableConfig, gallery: RowIds, context: str) -> list[str]:
    """A note on captions that are not used, since an earlier row of their concept has others."""
    concepts = concepts_of(table, config, gallery, context)
    ignored = set()
    for column in config.captions.values():
        first: dict[str, object] = {}
        cells = table.cells(column, gallery)
        ignored |= {
            place
            for place, (one, cell) in enumerate(zip(concepts, cells, strict=True))
            if cell not in (first.setdefault(one, cell), None, "")
        }
    if not ignored:
        return []
    return [
        f"{context}: the captions of {len(ignored)} of {len(gallery)} rows are not used, as the first row of their "
        f"'{config.concept}' has others; set concept = null to use the captions of every image"
    ]
