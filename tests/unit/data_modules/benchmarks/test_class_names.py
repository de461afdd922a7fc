"""Classes files: what is read, and the errors that name file, class and remedy."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_modules.benchmarks.class_names import ClassNames, read_class_names
from data_modules.errors import DataError

BOTH: dict[str, Any] = {
    "about": {"licence": "CC0"},
    "classes": {
        "dog": {"ko": "개", "en": ["dog", "puppy"], "provenance": "a dictionary"},
        7: {"ko": ["칠", "일곱"], "en": "seven", "provenance": {"ko": "by hand"}},
        "kimchi": {"ko": "김치"},
    },
    "templates": {"ko": "{}{을/를} 찍은 사진", "en": ["a photo of a {}.", "{c}"]},
}


def _file(folder: Path, content: object) -> str:
    file = folder / "classes.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_read_class_names__order_lists_and_a_class_without_a_name_in_one_language(tmp_path: Path) -> None:
    assert read_class_names(_file(tmp_path, BOTH), "c") == ClassNames(
        ids=["dog", "7", "kimchi"],
        names={"ko": [["개"], ["칠", "일곱"], ["김치"]], "en": [["dog", "puppy"], ["seven"], []]},
        templates={"ko": ["{}{을/를} 찍은 사진"], "en": ["a photo of a {}.", "{c}"]},
    )


def test_read_class_names__one_language(tmp_path: Path) -> None:
    found = read_class_names(_file(tmp_path, {"classes": {"a": {"ko": "가"}}, "templates": {"ko": "{}"}}), "c")
    assert found == ClassNames(ids=["a"], names={"ko": [["가"]]}, templates={"ko": ["{}"]})


def _with(**classes: Any) -> dict[str, Any]:
    return BOTH | {"classes": BOTH["classes"] | classes}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("classes: [", "is not YAML"),
        ("a text", "needs .*add `templates`"),
        ({"classes": BOTH["classes"]}, "needs .*add `templates`"),
        ({"templates": BOTH["templates"]}, "has no classes"),
        (BOTH | {"classes": {}}, "has no classes"),
        (BOTH | {"classes": ["dog"]}, "has no classes"),
        (BOTH | {"names": {}}, "unknown key 'names'"),
        (_with(cat="cat"), "the class 'cat' holds 'cat'; write its names as"),
        (_with(cat={"ko": "고양이", "en": " "}), "the class 'cat' has an unusable name: ' '"),
        (_with(cat={"ko": ["고양이", ""]}), "the class 'cat' has an unusable name"),
        (_with(cat={"ko": [], "en": "cat"}), "the class 'cat' has an unusable name"),
        (_with(cat={"ko": "고양이", "fr": "chat"}), "the class 'cat' has the unknown key 'fr'"),
        (_with(cat={"provenance": "by hand"}), "the class 'cat' has no name in any language; add one"),
        (_with(puppy={"en": "puppy"}), "the en name 'puppy' belongs to the classes 'dog' and 'puppy'"),
        (_with(**{"7": {"en": "sept"}}), "two classes have the same id"),
        (BOTH | {"templates": {"ko": "{}"}}, "the class 'dog' has a name in en; add templates.en"),
        (BOTH | {"templates": BOTH["templates"] | {"fr": "{}"}}, "templates.fr is no language"),
        (BOTH | {"templates": BOTH["templates"] | {"en": []}}, "templates.en: .*write one or more"),
        (
            BOTH | {"templates": BOTH["templates"] | {"en": "a photo"}},
            "templates.en: the template 'a photo' has no slot",
        ),
        (BOTH | {"templates": BOTH["templates"] | {"ko": "{}{를/을}"}}, r"unknown slot \{를/을\}"),
    ],
)
def test_read_class_names__unusable_files(tmp_path: Path, content: object, problem: str) -> None:
    file = _file(tmp_path, content)
    with pytest.raises(DataError, match=problem) as caught:
        read_class_names(file, "evaluation.k")
    assert re.fullmatch(r"evaluation\.k: .*classes\.yaml.*", str(caught.value))  # one line


def test_read_class_names__a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^c: .*none\.yaml does not exist"):
        read_class_names(str(tmp_path / "none.yaml"), "c")
