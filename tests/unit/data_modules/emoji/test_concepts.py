"""Families, gender forms and skin tones read from code points."""

from pathlib import Path

import pytest

from data_modules.emoji.concepts import Concept, read_concepts


def _concept(emoji: str) -> Concept:
    return Concept(tuple(f"{ord(character):04x}" for character in emoji), "group", "subgroup")


@pytest.mark.parametrize(
    ("emoji", "family", "gender", "tones"),
    [
        ("👩🏽‍🚒", "1f9d1-1f692", "woman", ("1f3fd",)),
        ("🧑‍🚒", "1f9d1-1f692", "person", ()),
        ("🏃🏿‍♂️", "1f3c3", "man", ("1f3ff",)),
        ("👸", "1fac5", "woman", ()),
        ("🤶🏻", "1f9d1-1f384", "woman", ("1f3fb",)),
        ("👫🏼", "1f9d1-1f91d-1f9d1", "woman-man", ("1f3fc",)),
        ("👩🏻‍🤝‍👨🏿", "1f9d1-1f91d-1f9d1", "woman-man", ("1f3fb", "1f3ff")),
        ("🧑🏽‍🤝‍🧑🏽", "1f9d1-1f91d-1f9d1", "person-person", ("1f3fd",)),
        ("💏", "1f9d1-2764-1f48b-1f9d1", "person-person", ()),
        ("👩‍❤️‍💋‍👨", "1f9d1-2764-1f48b-1f9d1", "woman-man", ()),
        ("🫱🏻‍🫲🏿", "1f91d", "person", ("1f3fb", "1f3ff")),
        ("♀️", "2640", "person", ()),
        ("❤️", "2764", "person", ()),
    ],
)
def test_concept__parts(emoji: str, family: str, gender: str, tones: tuple[str, ...]) -> None:
    concept = _concept(emoji)
    assert (concept.family, concept.gender, concept.tones) == (family, gender, tones)


def test_concept__emoji_is_written_back() -> None:
    assert _concept("👩🏽‍🚒").emoji == "👩🏽‍🚒"


def test_read_concepts__reads_the_shipped_list() -> None:
    concepts = read_concepts()
    assert len(concepts) == len({concept.concept for concept in concepts}) == 3655
    assert concepts[0] == Concept(("1f600",), "Smileys & Emotion", "face-smiling")
    assert len({concept.group for concept in concepts}) == 9


def test_read_concepts__empty_file(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lists no fully-qualified emoji"):
        read_concepts(path)
