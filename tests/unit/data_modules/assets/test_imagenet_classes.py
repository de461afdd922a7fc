"""Class names and templates of ImageNet-1k in English and Korean."""

import re
from collections import Counter

import pytest
import yaml
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from timm.data import ImageNetInfo

from data_modules.paths import resolve_path

IMAGENET = yaml.safe_load(resolve_path("package:assets/classes/imagenet.yaml").read_text(encoding="utf-8"))
CLASSES: dict[str, dict[str, str]] = IMAGENET["classes"]
MARKS = {"dictionary", "established", "loanword", "descriptive", "missing"}
PARTICLES = {"은/는", "이/가", "을/를", "과/와", "이/", "으로/로"}


def test_classes__are_the_wordnet_ids_in_the_order_of_the_labels() -> None:
    assert list(CLASSES) == ImageNetInfo().label_names()
    assert len(CLASSES) == 1000


def test_english_names_and_templates__equal_those_of_open_clip() -> None:
    assert [entry["en"] for entry in CLASSES.values()] == list(IMAGENET_CLASSNAMES)
    prompts = [template.format("tench") for template in IMAGENET["templates"]["en"]]
    assert prompts == [template("tench") for template in OPENAI_IMAGENET_TEMPLATES]


def test_korean_names__are_distinct_and_end_in_a_hangul_syllable() -> None:
    names = [entry["ko"] for entry in CLASSES.values() if "ko" in entry]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if name != " ".join(name.split())] == []
    assert [name for name in names if not re.fullmatch(r"[가-힣0-9A-Z ]*[가-힣]", name)] == []


def test_provenance__is_known_and_missing_exactly_where_no_korean_name_is_given() -> None:
    assert {frozenset(entry) - {"ko"} for entry in CLASSES.values()} == {frozenset({"en", "provenance"})}
    counts = Counter(entry["provenance"] for entry in CLASSES.values())
    print("provenance of the Korean names:", dict(counts.most_common()))  # noqa: T201 (shown by pytest -s)
    assert set(counts) <= MARKS
    missing = {key for key, entry in CLASSES.items() if entry["provenance"] == "missing"}
    assert missing == {key for key, entry in CLASSES.items() if "ko" not in entry}
    assert len(missing) < 80


@pytest.mark.parametrize(("language", "particles"), [("en", set[str]()), ("ko", PARTICLES)])
def test_templates__hold_one_name_and_known_particles(language: str, particles: set[str]) -> None:
    templates = IMAGENET["templates"][language]
    assert len(set(templates)) == len(templates) >= 8
    for template in templates:
        slots = re.findall(r"\{([^{}]*)\}", template)
        assert slots.count("") == 1, template
        assert set(slots) - {""} <= particles, template
        assert not re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", template)), template
