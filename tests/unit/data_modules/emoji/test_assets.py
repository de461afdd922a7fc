"""Class names and templates of zero-shot classification."""

from collections import Counter
from typing import Any

import pytest
import yaml

from data_modules.emoji.splits import UNSEEN_DESIGN
from data_modules.paths import resolve_path

SUBGROUPS = yaml.safe_load(resolve_path("package:assets/classes/emoji_subgroups.yaml").read_text(encoding="utf-8"))


def test_emoji_subgroups__lists_every_large_subgroup(corpus: dict[str, list[dict[str, Any]]]) -> None:
    known = [row for row in corpus["noto"] if row["split"] == UNSEEN_DESIGN and not row["skin_tone"]]
    counts = Counter(row["subgroup"] for row in known)
    large = [subgroup for subgroup, count in counts.items() if count >= 8]
    assert list(SUBGROUPS["classes"]) == large


@pytest.mark.parametrize("language", ["ko", "en"])
def test_emoji_subgroups__names_are_distinct_and_templates_start_bare(language: str) -> None:
    assert all(entry[language] for entry in SUBGROUPS["classes"].values())
    names = [name for entry in SUBGROUPS["classes"].values() for name in entry[language]]
    assert len(set(names)) == len(names)
    korean = [any("가" <= character <= "힣" for character in name) for name in names]
    assert set(korean) == {language == "ko"}
    templates = SUBGROUPS["templates"][language]
    assert templates[0] == "{}"
    assert all(template.count("{}") == 1 for template in templates)
