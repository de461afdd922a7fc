"""Word pairs from names, and the concepts that keywords give them, on texts whose answer is written out."""

import pytest

from data_modules.text.trained_words import ConceptTexts, overlap, trained_pairs


def texts(ko: str, en: str, ko_words: str, en_words: str, weight: float = 1.0) -> ConceptTexts:
    return ConceptTexts(
        names={"ko": (ko,), "en": (en,)},
        keywords={"ko": tuple(ko_words.split()), "en": tuple(en_words.split())},
        weight=weight,
    )


CONCEPTS = {
    "red": texts("빨간 사과", "Red Apple", "사과 과일", "apple fruit"),
    "green": texts("초록 사과", "green apple", "사과 초록", "apple green"),
    "pear": texts("배", "pear", "배", "pear fruit"),
    "ship": texts("배 그림", "ship", "배", "ship boat"),
    "tree": texts("나무", "tree: old", "나무 초록", "tree apple"),
}


def pairs(min_concepts: int = 1) -> dict[tuple[str, str], tuple[set[str], set[str]]]:
    found = trained_pairs(CONCEPTS, min_concepts)
    return {(one.ko, one.en): (set(one.ko_concepts), set(one.en_concepts)) for one in found}


def test_trained_pairs__names_decide_the_pairs_and_keywords_how_far_they_agree() -> None:
    # 배 is a pear and a ship: each is a best match of it, so neither is the one.
    assert pairs() == {
        ("사과", "apple"): ({"red", "green"}, {"red", "green", "tree"}),
        ("초록", "green"): ({"green", "tree"}, {"green"}),
        ("나무", "tree"): ({"tree"}, {"tree"}),
    }


def test_trained_pairs__words_of_few_concepts_are_left_out() -> None:
    assert set(pairs(2)) == {("사과", "apple")}


def test_trained_pairs__words_spelt_alike_in_both_languages_form_no_pair() -> None:
    concepts = {"five": texts("5", "5", "5 다섯", "5 five"), "ufo": texts("UFO", "ufo", "ufo", "UFO")}
    assert trained_pairs(concepts, 1) == []


def test_trained_pairs__whole_words_only() -> None:
    concepts = {"pine": texts("파인애플", "pineapple", "애플 파인애플", "apple pineapple")}
    assert [(one.ko, one.en) for one in trained_pairs(concepts, 1)] == [("파인애플", "pineapple")]


def test_overlap__is_the_jaccard_index_by_weight() -> None:
    concepts = {name: texts("가", "a", "가", "a", weight) for name, weight in (("x", 1.0), ("y", 1.0), ("z", 0.2))}
    assert overlap({"x", "y"}, {"y", "z"}, concepts) == pytest.approx(1 / 2.2)
    assert overlap({"x"}, {"x"}, concepts) == 1.0
    assert overlap(set(), set(), concepts) == 0.0
