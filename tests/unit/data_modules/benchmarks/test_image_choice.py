"""Multiple-choice tables in the forms that occur, and answers that are none of the options."""

from collections.abc import Callable
from typing import Any

import pytest

from data_modules.benchmarks.config import ChoiceSetConfig, TableConfig
from data_modules.benchmarks.evaluation_sets import ChoiceSet, build_choice_set
from data_modules.benchmarks.image_stream import EvaluationTransform, image_batches
from data_modules.errors import DataError

Rows = list[dict[str, Any]]
OPTIONS = ["한복", "기모노", "치파오"]


@pytest.fixture
def build(picture: bytes, write_table: Callable[[Rows, str], str]) -> Callable[..., ChoiceSet]:
    """The set of a table with one row per answer; `more` changes or adds columns."""

    def build(answers: list[Any], more: dict[str, Any] | None = None, **options: Any) -> ChoiceSet:
        row = {"image": {"bytes": picture}, "question": "무슨 옷인가요?", "options": OPTIONS} | (more or {})
        file = write_table([row | {"answer": answer} for answer in answers], "quiz.parquet")
        given = {"table": TableConfig(files=[file]), "language": "ko", "options": ["options"]}
        return build_choice_set("quiz", ChoiceSetConfig(**given | options), section="choices")

    return build


@pytest.mark.parametrize(
    ("answers", "base"),
    [([0, 2], 0), ([1, 3], 1), (["A", "c"], 0), (["한복", "치파오"], 0), (["0", "2"], 0)],
    ids=["numbers from 0", "numbers from 1", "letters", "texts", "digits"],
)
def test_build_choice_set__answers_in_every_form(
    build: Callable[..., ChoiceSet], picture: bytes, answers: list[Any], base: int
) -> None:
    built = build(answers, answer_base=base)
    assert built.answers.tolist() == [0, 2]
    assert built.texts[0][1] == "무슨 옷인가요? 기모노"
    assert len(built.images) == 2
    assert all(built.images.table.image(int(row)) == picture for row in built.images.rows)


@pytest.mark.parametrize(
    ("answer", "columns", "template", "texts", "correct"),
    [
        ("B", {"first": "{a}", "second": "b"}, "{option} 사진", ["{a} 사진", "b 사진"], 1),
        ("C", {"first": 2, "second": 3, "third": 5}, "{option}", ["2", "3", "5"], 2),
    ],
    ids=["template", "numbers"],
)
def test_build_choice_set__options_in_columns(
    build: Callable[..., ChoiceSet],
    answer: str,
    columns: dict[str, Any],
    template: str,
    texts: list[str],
    correct: int,
) -> None:
    built = build([answer], columns, options=list(columns), template=template)
    assert (built.texts, built.answers.tolist()) == ([texts], [correct])


@pytest.mark.parametrize("answer", [3, -1, "D", "저고리", None])
def test_build_choice_set__an_answer_that_is_no_option(build: Callable[..., ChoiceSet], answer: Any) -> None:
    with pytest.raises(DataError, match=r"choices\.quiz: row 0: the answer .* is none of the options"):
        build([answer])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": ["한복", None]}, "option None is no text"),
        ({"options": [["한복"], ["기모노"]]}, "is no text"),
        ({"options": [{"text": "한복"}, {"text": "기모노"}]}, "is no text"),
        ({"options": ["한복", " "]}, "option ' ' is no text"),
        ({"options": "한복"}, "holds '한복', not a list"),
        ({"question": None}, "question None is no text"),
        ({"question": ["무슨", "옷"]}, "is no text"),
    ],
)
def test_build_choice_set__cells_that_are_no_texts(
    build: Callable[..., ChoiceSet], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=rf"choices\.quiz: row 0: .*{message}"):
        build([0], changes)


def test_build_choice_set__an_unusable_image_is_named_when_it_is_read(build: Callable[..., ChoiceSet]) -> None:
    stream = image_batches(
        build([0], {"image": {"bytes": b"nothing"}}).images,
        EvaluationTransform(16),
        [slice(0, 1)],
        num_workers=0,
        owner="choices.quiz",
    )
    with pytest.raises(DataError, match=r"choices\.quiz: image '0' cannot be used \(image_.*; replace it"):
        list(stream)


def test_build_choice_set__a_missing_image_is_named_before_any_is_read(build: Callable[..., ChoiceSet]) -> None:
    with pytest.raises(DataError, match=r"choices\.quiz: 1 of 1 images are missing \(row 0: the row has no image\)"):
        build([0], {"image": {"bytes": None}})
