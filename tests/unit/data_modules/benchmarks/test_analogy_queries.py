"""Queries by replaced key parts: with made-up keys, equal images, and the embedded corpus."""

import io
import re
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_modules.benchmarks.analogy_queries import build_analogy_set, replace_part
from data_modules.benchmarks.config import AnalogySetConfig, GalleryConfig, RelationConfig, TermConfig
from data_modules.errors import DataError
from data_modules.paths import resolve_path

Rows = list[dict[str, Any]]
MAN = TermConfig(parts=["m", "♂"], ko=["남자"], en=["man"])
WOMAN = TermConfig(parts=["w", "♀"], ko=["여자", "여성"], en=["woman"])
GENDER = RelationConfig(terms={"man": MAN, "woman": WOMAN}, changes={"man": "woman", "woman": "man"})


def grey_image(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (12, 12), grey).save(buffer, "PNG")
    return buffer.getvalue()


def people(keys: dict[str, int]) -> Rows:
    """A row per key, with an image of one grey value."""
    return [
        {
            "key": key,
            "image": {"bytes": grey_image(grey)},
            "kind": "family" if "+" in key else "person",
            "role": key.split("-")[-1],
        }
        for key, grey in keys.items()
    ]


@pytest.fixture
def config(write_table: Callable[[Rows, str], str]) -> Callable[..., AnalogySetConfig]:
    def build(keys: dict[str, int], **relation: Any) -> AnalogySetConfig:
        gallery = GalleryConfig(files=[write_table(people(keys), "people.parquet")])
        changed = RelationConfig(terms=GENDER.terms, changes=relation.pop("changes", GENDER.changes), **relation)
        return AnalogySetConfig(gallery=gallery, cluster="role", relations={"gender": changed})

    return build


def test_build_analogy_set__one_part_changes(config: Callable[..., AnalogySetConfig]) -> None:
    keys = {"m-cook": 10, "w-cook": 20, "run-♂": 30, "run-♀": 40, "m-pilot": 50, "m-w-cook": 60, "cook": 70}
    built = build_analogy_set("people", config(keys), 8)
    found = [(built.gallery.keys[query.image], built.gallery.keys[query.right[0]]) for query in built.queries]
    # m-pilot has no counterpart, and m-w-cook would become m-m-cook or w-w-cook.
    assert found == [("m-cook", "w-cook"), ("w-cook", "m-cook"), ("run-♂", "run-♀"), ("run-♀", "run-♂")]
    assert [query.cluster for query in built.queries] == ["cook", "cook", "♂", "♀"]
    first, inverse = built.queries[:2]
    assert first.name == inverse.name == "gender m-cook w-cook"
    assert built.texts["ko"][first.target] == ["여자", "여성"]
    assert built.texts["en"][first.source] == ["man"]


def test_build_analogy_set__equal_images_are_correct_or_excluded_together(
    config: Callable[..., AnalogySetConfig],
) -> None:
    keys = {"m-cook": 10, "w-cook": 20, "chef": 20, "cook": 10, "m-spy": 30, "w-spy": 30}
    built = build_analogy_set("people", config(keys, changes={"man": "woman"}), 8)
    (query,) = built.queries  # both spies have equal pixels: no query
    assert {built.gallery.keys[row] for row in query.right} == {"w-cook", "chef"}
    assert {built.gallery.keys[row] for row in query.left_out} == {"m-cook", "cook"}


def test_build_analogy_set__where_selects_query_images(config: Callable[..., AnalogySetConfig]) -> None:
    keys = {"m-cook": 1, "w-cook": 2, "m-a+b": 3, "w-a+b": 4}
    built = build_analogy_set("people", config(keys, where={"kind": ["person"]}), 8)
    assert {built.gallery.keys[query.image] for query in built.queries} == {"m-cook", "w-cook"}


def test_build_analogy_set__no_query(config: Callable[..., AnalogySetConfig]) -> None:
    with pytest.raises(DataError, match=r"sets\.people\.relations\.gender finds no query among 2 images"):
        build_analogy_set("people", config({"m-cook": 1, "w-pilot": 2}), 8)


@pytest.mark.parametrize(
    ("key", "expected"), [("m-x", "w-x"), ("x-m", "x-w"), ("x", None), ("m-m", None), ("mm-x", None)]
)
def test_replace_part(key: str, expected: str | None) -> None:
    assert replace_part(key, "-", {"m": "w"}) == expected


def test_replace_part__names_of_the_corpus_change_as_the_code_points_do() -> None:
    """The rule on code points against the names that Unicode gives, an independent source."""
    table = pq.read_table(resolve_path("package:emoji/twemoji.parquet"), columns=["concept", "name_en", "subgroup"])
    name = {row["concept"]: row["name_en"] for row in table.to_pylist() if row["subgroup"].startswith("person-")}
    changed = {key: replace_part(key, "-", {"1f468": "1f469", "2642": "2640"}) for key in name}
    found = {key: other for key, other in changed.items() if other in name}
    assert len(found) > 350
    names = [(name[key], name[other]) for key, other in found.items() if other is not None]
    spelt = [(first, second) for first, second in names if re.search(r"\bm[ae]n\b", first)]
    assert len(spelt) > 350  # the others are merpeople and the like
    assert all(re.sub(r"\bm(?=[ae]n\b)", "wom", first) == second for first, second in spelt)
