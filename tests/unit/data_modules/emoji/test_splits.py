"""Splits: determined by code points, disjoint, and with all components of held-out combinations in training."""

from collections import Counter, defaultdict
from typing import Any

import pytest

from data_modules.emoji.concepts import Concept
from data_modules.emoji.splits import (
    COMBINATION_SHARE,
    FLAGS,
    SPLITS,
    TRAIN,
    UNSEEN_COMBINATIONS,
    UNSEEN_CONCEPTS,
    UNSEEN_DESIGN,
    components,
    concept_splits,
    families,
    position,
    row_split,
)

Corpus = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def splits(concepts: list[Concept]) -> dict[str, str]:
    return concept_splits(concepts)


def test_concept_splits__recomputed_from_code_points_match_the_rows(corpus: Corpus, splits: dict[str, str]) -> None:
    for design, rows in corpus.items():
        for row in rows:
            assert row["split"] == row_split(splits[row["concept"]], design), row["key"]


def test_concept_splits__does_not_depend_on_the_order_of_unrelated_families(
    concepts: list[Concept], splits: dict[str, str]
) -> None:
    people = [concept for concept in concepts if concept.group == "People & Body"]
    alone = concept_splits(people)
    assert alone == {concept: splits[concept] for concept in alone}


def test_concept_splits__keys_are_unique_and_splits_known(corpus: Corpus) -> None:
    keys = [row["key"] for rows in corpus.values() for row in rows]
    assert len(keys) == len(set(keys))
    assert {row["split"] for rows in corpus.values() for row in rows} == set(SPLITS)


def test_concept_splits__unseen_design_has_no_training_rows(corpus: Corpus) -> None:
    assert TRAIN not in {row["split"] for row in corpus["noto"]}
    trained = {row["split"] for design, rows in corpus.items() if design != "noto" for row in rows}
    assert trained == {TRAIN, UNSEEN_CONCEPTS, UNSEEN_COMBINATIONS}


def test_concept_splits__unseen_concepts_families_never_train(corpus: Corpus) -> None:
    trained = {row["family"] for rows in corpus.values() for row in rows if row["split"] == TRAIN}
    unseen = {row["family"] for rows in corpus.values() for row in rows if row["split"] == UNSEEN_CONCEPTS}
    assert unseen
    assert not unseen & trained


def test_concept_splits__components_of_combinations_stay_in_training(
    concepts: list[Concept], splits: dict[str, str]
) -> None:
    for members in families(concepts).values():
        trained = [member for member in members if splits[member.concept] == TRAIN]
        assert len(members) == 1 or trained[0] == members[0], "the first member is never held out"
        left = set().union(*(components(member) for member in trained)) if trained else set()
        for member in members:
            if splits[member.concept] == UNSEEN_COMBINATIONS:
                assert components(member) <= left, member.concept


def test_concept_splits__components_stay_among_drawn_training_rows(corpus: Corpus, concepts: list[Concept]) -> None:
    """The same for the drawings of the trained designs."""
    by_name = {concept.concept: concept for concept in concepts}
    left: dict[str, set[str]] = defaultdict(set)
    rows = [row for design, rows in corpus.items() if design != "noto" for row in rows]
    for row in rows:
        if row["split"] == TRAIN:
            left[row["family"]] |= components(by_name[row["concept"]])
    for row in rows:
        if row["split"] == UNSEEN_COMBINATIONS:
            assert components(by_name[row["concept"]]) <= left[row["family"]], row["key"]


def test_concept_splits__shares_are_about_as_documented(concepts: list[Concept], splits: dict[str, str]) -> None:
    counts = Counter(splits.values())
    groups = families(concepts).values()
    single = sum(len(members) == 1 for members in groups)
    varied = sum(len(members) for members in groups if len(members) > 1)
    assert 0.035 < counts[UNSEEN_CONCEPTS] / single < 0.065
    assert 0.075 < counts[UNSEEN_COMBINATIONS] / varied <= COMBINATION_SHARE + 0.01
    assert counts[FLAGS] == sum(concept.group == "Flags" for concept in concepts)


def test_position__is_fixed() -> None:
    assert position("1f600") == pytest.approx(0.18967408723675724)
    assert 0 <= position("2764-fe0f") < 1


@pytest.mark.parametrize(
    ("concept_split", "design", "expected"),
    [
        (TRAIN, "twemoji", TRAIN),
        (TRAIN, "noto", UNSEEN_DESIGN),
        (FLAGS, "emojione", TRAIN),
        (FLAGS, "noto", FLAGS),
        (UNSEEN_CONCEPTS, "noto", UNSEEN_CONCEPTS),
        (UNSEEN_COMBINATIONS, "fluent", UNSEEN_COMBINATIONS),
    ],
)
def test_row_split__covers_every_case(concept_split: str, design: str, expected: str) -> None:
    assert row_split(concept_split, design) == expected
