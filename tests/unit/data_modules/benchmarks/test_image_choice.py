"""Multiple-choice tables in the forms that occur, and answers that are none of the options."""

from collections.abc import Callable
from typing import Any

import pytest

from data_modules.benchmarks.image_choice import ImageChoiceConfig, build_image_choice
from data_modules.errors import DataError

Rows = list[dict[str, Any]]
OPTIONS = ["한복", "기모노", "치파오"]


def table(picture: bytes, answers: list[Any], **more: Any) -> Rows:
    return [
        {"image": {"bytes": picture}, "question": "무슨 옷인가요?", "options": OPTIONS, "answer": answer, **more}
        for answer in answers
    ]


@pytest.mark.parametrize(
    ("answers", "base"),
    [([0, 2], 0), ([1, 3], 1), (["A", "c"], 0), (["한복", "치파오"], 0), (["0", "2"], 0)],
    ids=["numbers from 0", "numbers from 1", "letters", "texts", "digits"],
)
def test_build_image_choice__answers_in_every_form(
    answers: list[Any], base: int, picture: bytes, write_table: Callable[[Rows, str], str]
) -> None:
    file = write_table(table(picture, answers), "quiz.parquet")
    built = build_image_choice("quiz", ImageChoiceConfig(files=[file], options=["options"], answer_base=base), 16)
    assert built.answers == [0, 2]
    assert built.texts[0][1] == "무슨 옷인가요? 기모노"
    assert built.images.shape == (2, 3, 16, 16)


def test_build_image_choice__options_in_columns_and_a_template(
    picture: bytes, write_table: Callable[[Rows, str], str]
) -> None:
    file = write_table(table(picture, ["B"], first="{a}", second="b"), "quiz.parquet")
    config = ImageChoiceConfig(files=[file], options=["first", "second"], template="{option} 사진")
    built = build_image_choice("quiz", config, 16)
    assert built.texts == [["{a} 사진", "b 사진"]]
    assert built.answers == [1]


@pytest.mark.parametrize("answer", [3, -1, "D", "저고리", None])
def test_build_image_choice__an_answer_that_is_no_option(
    answer: Any, picture: bytes, write_table: Callable[[Rows, str], str]
) -> None:
    file = write_table(table(picture, [answer]), "quiz.parquet")
    with pytest.raises(DataError, match=r"choices\.quiz, row 0: the answer .* is none of the options"):
        build_image_choice("quiz", ImageChoiceConfig(files=[file], options=["options"]), 16)


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
        ({"image": {"bytes": b"nothing"}}, "image"),
        ({"image": {"bytes": None}}, "image"),
    ],
)
def test_build_image_choice__cells_that_are_no_texts_or_images(
    changes: dict[str, Any], message: str, picture: bytes, write_table: Callable[[Rows, str], str]
) -> None:
    rows = table(picture, [0])
    file = write_table([rows[0] | changes], "quiz.parquet")
    with pytest.raises(DataError, match=rf"choices\.quiz, row 0: .*{message}"):
        build_image_choice("quiz", ImageChoiceConfig(files=[file], options=["options"]), 16)


def test_build_image_choice__numbers_as_options(picture: bytes, write_table: Callable[[Rows, str], str]) -> None:
    file = write_table(table(picture, ["C"], first=2, second=3, third=5), "quiz.parquet")
    config = ImageChoiceConfig(files=[file], options=["first", "second", "third"], template="{option}")
    built = build_image_choice("quiz", config, 16)
    assert (built.texts, built.answers) == ([["2", "3", "5"]], [2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_base": 2}, "answer_base = 2 must be in"),
        ({"template": "{question}"}, "template"),
        ({"template": "{option} {other}"}, "template"),
        ({"options": []}, "options is empty"),
    ],
)
def test_image_choice_config__rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageChoiceConfig(**{"files": ["a"], "options": ["options"]} | options)
