"""Caption templates and zero-shot class names."""

from collections import Counter
from typing import Any

import pytest
import yaml

from data_modules.emoji.splits import UNSEEN_DESIGN
from data_modules.emoji.verify import CORPUS_FOLDER

ASSETS = CORPUS_FOLDER.parent / "assets"
LANGUAGES = ("ko", "en")
HANGUL = range(0xAC00, 0xD7A4)


def _read(name: str) -> Any:
    return yaml.safe_load((ASSETS / name).read_text(encoding="utf-8"))


def test_emoji_subgroups__lists_every_large_subgroup(corpus: dict[str, list[dict[str, Any]]]) -> None:
    known = [row for row in corpus["noto"] if row["split"] == UNSEEN_DESIGN and not row["skin_tone"]]
    counts = Counter(row["subgroup"] for row in known)
    large = [subgroup for subgroup, count in counts.items() if count >= 8]
    assert list(_read("emoji_subgroups.yaml")["classes"]) == large


@pytest.mark.parametrize("language", LANGUAGES)
def test_emoji_subgroups__names_are_written_and_distinct(language: str) -> None:
    classes = _read("emoji_subgroups.yaml")["classes"]
    names = [name for entry in classes.values() for name in entry[language]]
    assert all(entry[language] for entry in classes.values())
    assert len(set(names)) == len(names)
    korean = [any(ord(character) in HANGUL for character in name) for name in names]
    assert set(korean) == {language == "ko"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_emoji_subgroups__templates_start_bare(language: str) -> None:
    templates = _read("emoji_subgroups.yaml")["templates"][language]
    assert templates[0] == "{}"
    assert all(template.count("{}") == 1 for template in templates)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("form", "bare"),
    [("name", "{name}"), ("name_keywords", "{name}: {keywords}"), ("keywords", "{keywords}")],
)
def test_emoji_captions__templates_start_bare(form: str, bare: str, language: str) -> None:
    templates = _read("emoji_captions.yaml")[form][language]
    assert templates[0] == bare
    assert len(set(templates)) == len(templates)
    for template in templates:
        assert ("{name}" in template, "{keywords}" in template) == ("{name}" in bare, "{keywords}" in bare)
