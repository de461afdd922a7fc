"""Analogy queries from the keys of a gallery: the same concept with one attribute changed.

A relation names terms (man, woman) and the key parts that encode them (for emoji: code points). An image with exactly
one part of the source term in its key is a query if replacing this part by the target term's gives the key of another
image of the gallery, the correct answer. Example: `1f468-200d-1f692` (man firefighter) -> `1f469-200d-1f692` (woman
firefighter), since `1f468` -> `1f469`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from data_modules.benchmarks.config import AnalogySetConfig
from data_modules.benchmarks.galleries import ImageGallery, build_image_gallery, image_digests
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalogyQuery:
    """One query; indices are rows of the gallery and of the terms' texts."""

    name: str
    """Determines the half of a split; a query and its inverse have equal names and so fall into one half."""
    relation: str
    """For example `gender`."""
    cluster: str
    """Queries of one cluster are dependent."""
    image: int
    """Gallery row of the query image."""
    left_out: tuple[int, ...]
    """Gallery rows that are not ranked: `image` and all rows with equal pixels."""
    right: tuple[int, ...]
    """Gallery rows of correct answers, none of them left out."""
    source: int
    """Row of the source text."""
    target: int
    """Row of the target text."""


@dataclass(kw_only=True, slots=True)
class AnalogySet:
    """A gallery with its queries."""

    name: str
    gallery: ImageGallery
    queries: list[AnalogyQuery]
    texts: dict[str, list[list[str]]]
    """Language -> words of each term."""


def build_analogy_set(name: str, config: AnalogySetConfig, image_size: int) -> AnalogySet:
    """Read the gallery and build every query.

    Raises:
        DataError: The gallery cannot be read, or a relation finds no query in it.
    """
    columns = {config.cluster, *(column for relation in config.relations.values() for column in relation.where)}
    gallery = build_image_gallery(config.gallery, image_size, sorted(columns))
    terms = [(relation, term) for relation, one in config.relations.items() for term in one.terms]
    text_rows = {term: row for row, term in enumerate(terms)}
    queries: list[AnalogyQuery] = []
    for relation in config.relations:
        found = list(_queries(relation, config, gallery, text_rows))
        if not found:
            raise DataError(
                f"sets.{name}.relations.{relation} finds no query among {len(gallery.keys)} images; "
                "check the parts of its terms, and its `where`"
            )
        queries += found
    texts = {
        language: [list(getattr(config.relations[relation].terms[term], language)) for relation, term in terms]
        for language in LANGUAGES
    }
    return AnalogySet(name=name, gallery=gallery, queries=queries, texts=texts)


def _queries(
    relation: str, config: AnalogySetConfig, gallery: ImageGallery, text_rows: dict[tuple[str, str], int]
) -> Iterator[AnalogyQuery]:
    settings, equal = config.relations[relation], _equal_images(gallery)
    row_of = {key: row for row, key in enumerate(gallery.keys)}
    for row, key in enumerate(gallery.keys):
        if any(gallery.columns[column][row] not in allowed for column, allowed in settings.where.items()):
            continue
        for source, target in settings.changes.items():
            parts = zip(settings.terms[source].parts, settings.terms[target].parts, strict=True)
            changed = replace_part(key, config.separator, dict(parts))
            if changed in row_of and row_of[changed] not in equal[row]:
                yield AnalogyQuery(
                    name=f"{relation} {' '.join(sorted((key, changed)))}",
                    relation=relation,
                    cluster=gallery.columns[config.cluster][row],
                    image=row,
                    left_out=equal[row],
                    right=equal[row_of[changed]],
                    source=text_rows[relation, source],
                    target=text_rows[relation, target],
                )


def _equal_images(gallery: ImageGallery) -> list[tuple[int, ...]]:
    """For each row, the rows with equal pixels, itself included."""
    digests = image_digests(gallery.images)
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        rows.setdefault(digest, []).append(row)
    return [tuple(rows[digest]) for digest in digests]


def replace_part(key: str, separator: str, replacement: dict[str, str]) -> str | None:
    """The key with its one replaceable part replaced; `None` if it has none or several."""
    parts = key.split(separator)
    found = [index for index, part in enumerate(parts) if part in replacement]
    if len(found) != 1:
        return None
    parts[found[0]] = replacement[parts[found[0]]]
    return separator.join(parts)
