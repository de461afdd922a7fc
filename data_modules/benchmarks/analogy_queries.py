"""Analogy queries from the identifiers of a gallery: the same thing with one part changed.

A relation names terms (man, woman) and the parts of an image's key that stand for them (for emoji: code points). An
image whose key holds exactly one part of the source term is a query if the key with that part replaced by the target
term's is another image of the gallery: that one is right. `1f468-200d-1f692` (man firefighter) becomes
`1f469-200d-1f692` (woman firefighter) as `1f468` becomes `1f469`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from data_modules.benchmarks.image_gallery import GalleryConfig, ImageGallery, build_image_gallery
from data_modules.errors import DataError
from data_modules.records import LANGUAGES


@dataclass(kw_only=True, slots=True)
class TermConfig:
    """One value of an attribute, in the keys of images and in words."""

    parts: list[str]
    """Parts of keys that stand for it; the part at a place is replaced by the other term's at the same place."""
    ko: list[str]
    """Korean words; their embeddings are averaged."""
    en: list[str]
    """English words."""

    def __post_init__(self) -> None:
        for name, values in (("parts", self.parts), ("ko", self.ko), ("en", self.en)):
            if not values:
                raise ValueError(f"{name} is empty: give at least one")


@dataclass(kw_only=True, slots=True)
class RelationConfig:
    """An attribute that is changed: its terms, and which one becomes which."""

    terms: dict[str, TermConfig]
    """Name -> parts and words."""
    changes: dict[str, str]
    """Source term -> target term."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the images that are asked with, column -> allowed values; empty: all images."""

    def __post_init__(self) -> None:
        for source, target in self.changes.items():
            if unknown := [one for one in (source, target) if one not in self.terms]:
                raise ValueError(f"changes names '{unknown[0]}', which is none of the terms {', '.join(self.terms)}")
            if len(self.terms[source].parts) != len(self.terms[target].parts):
                raise ValueError(f"changes {source} to {target}, which must have as many parts")


@dataclass(kw_only=True, slots=True)
class AnalogySetConfig:
    """A gallery whose keys are made of parts, and the relations that are asked in it."""

    gallery: GalleryConfig
    """Images; `key` names the column whose values are made of parts."""
    separator: str = "-"
    """What stands between the parts of a key."""
    cluster: str
    """Column whose equal values mark images that depend on each other (variants of one drawing)."""
    relations: dict[str, RelationConfig]
    """Name -> relation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalogyQuery:
    """One question; indices are rows of the gallery and of the relations' texts."""

    name: str
    """What the halves are drawn by; a query and its inverse share one, so that they fall into one half."""
    relation: str
    """What changes, for example `gender`."""
    cluster: str
    """Queries of one cluster depend on each other."""
    image: int
    """The gallery row that is asked with."""
    left_out: tuple[int, ...]
    """Gallery rows that are not ranked: `image`, and all that show the very same picture."""
    right: tuple[int, ...]
    """The gallery rows that are right, none of them left out."""
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
    """Read the gallery and form every query.

    Raises:
        DataError: The gallery cannot be read, or a relation finds no query in it.
    """
    columns = {config.cluster, *(column for relation in config.relations.values() for column in relation.where)}
    gallery = build_image_gallery(config.gallery, image_size, sorted(columns))
    terms = [(relation, term) for relation, one in config.relations.items() for term in one.terms]
    queries: list[AnalogyQuery] = []
    for relation, one in config.relations.items():
        rows = {term: terms.index((relation, term)) for term in one.terms}
        found = list(_queries(relation, one, gallery, config, rows))
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
    relation: str, config: RelationConfig, gallery: ImageGallery, settings: AnalogySetConfig, rows: dict[str, int]
) -> Iterator[AnalogyQuery]:
    row_of = {key: row for row, key in enumerate(gallery.keys)}
    equal = _equal_images(gallery)
    for row, key in enumerate(gallery.keys):
        if any(gallery.columns[column][row] not in allowed for column, allowed in config.where.items()):
            continue
        for source, target in config.changes.items():
            changed = replace_part(
                key, settings.separator, dict(zip(config.terms[source].parts, config.terms[target].parts, strict=True))
            )
            if changed in row_of and row_of[changed] not in equal[row]:
                yield AnalogyQuery(
                    name=f"{relation} {' '.join(sorted((key, changed)))}",
                    relation=relation,
                    cluster=gallery.columns[settings.cluster][row],
                    image=row,
                    left_out=equal[row],
                    right=equal[row_of[changed]],
                    source=rows[source],
                    target=rows[target],
                )


def _equal_images(gallery: ImageGallery) -> list[tuple[int, ...]]:
    """For each row, the rows with the same pixels, itself included."""
    digests = [hashlib.sha256(image.numpy().tobytes()).digest() for image in gallery.images]
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        rows.setdefault(digest, []).append(row)
    return [tuple(rows[digest]) for digest in digests]


def replace_part(key: str, separator: str, replacement: dict[str, str]) -> str | None:
    """The key with its one part that is to be replaced; none if it has none or several such parts."""
    parts = key.split(separator)
    places = [place for place, part in enumerate(parts) if part in replacement]
    if len(places) != 1:
        return None
    parts[places[0]] = replacement[parts[places[0]]]
    return separator.join(parts)
