"""Multiple-choice questions about images, from a parquet table (K-Viscuit, for example).

Shapes: N questions, S image side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_modules.benchmarks.config import ChoiceSetConfig, check_choice_template
from data_modules.benchmarks.galleries import table_image
from data_modules.config_roles import between, check_ranges
from data_modules.errors import DataError
from data_modules.sources.tables import open_table


@dataclass(kw_only=True, slots=True)
class ImageChoiceConfig:
    """A parquet table with an image, a question, its options and the correct option in each row."""

    files: list[str]
    """Parquet files or glob patterns."""
    image: str = "image"
    """Column of encoded images."""
    question: str = "question"
    """Column of the question."""
    options: list[str]
    """One column of lists of texts, or several columns of one text each."""
    answer: str = "answer"
    """Column of the correct option: its number (see answer_base), its letter (A, B, ...) or its text."""
    answer_base: int = field(default=0, metadata=between(0, 1))
    """Number of the first option if answers are numbers, 0 or 1."""
    template: str = "{question} {option}"
    """Text of an option that is compared with the image."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_choice_template(self.template)
        if not self.options:
            raise ValueError("options is empty: name the column or columns that hold the options")


@dataclass(kw_only=True, slots=True)
class ImageChoiceSet:
    """Decoded images and the texts of their options."""

    images: Tensor
    """uint8 (N, 3, S, S)."""
    texts: list[list[str]]
    """N lists of two or more texts."""
    answers: list[int]
    """N indices of the correct text."""


def build_image_choice(name: str, config: ImageChoiceConfig, image_size: int) -> ImageChoiceSet:
    """Read every question and decode its image.

    Raises:
        DataError: A file or column is missing, a question has fewer than two options, or an answer is none of them.
    """
    table = open_table(config.files, config.image, [config.question, config.answer, *config.options])
    images, texts, answers = [], [], []
    for number, row in enumerate(table):
        context = f"choices.{name}, row {number}"
        choices, answer = option_texts(config, row, context)
        texts.append(choices)
        answers.append(answer)
        images.append(table_image(row[config.image], image_size, f"{context}: the image"))
    if not images:
        raise DataError(f"choices.{name}: {', '.join(config.files)} holds no question")
    return ImageChoiceSet(images=torch.from_numpy(np.stack(images)), texts=texts, answers=answers)


def option_texts(
    config: ImageChoiceConfig | ChoiceSetConfig, row: Mapping[str, Any], context: str
) -> tuple[list[str], int]:
    """The texts of a row's options, two or more, and the index of the correct one.

    Raises:
        DataError: A cell is no text, there are fewer than two options, or the answer is none of them.
    """
    options = _options(row, config.options, context)
    answer = _answer(row[config.answer], options, config.answer_base)
    if len(options) < 2 or answer is None:
        raise DataError(
            f"{context}: the answer {row[config.answer]!r} is none of the options {options}; "
            "check the columns `options` and `answer`, and `answer_base`"
        )
    question = "" if config.question is None else _text(row[config.question], "question", context)
    return [config.template.format(question=question, option=option) for option in options], answer


def _options(row: Mapping[str, Any], columns: list[str], context: str) -> list[str]:
    cells = row[columns[0]] if len(columns) == 1 else [row[column] for column in columns]
    if not isinstance(cells, list):
        raise DataError(f"{context}: the column '{columns[0]}' holds {cells!r}, not a list; name one column per option")
    return [_text(one, "option", context) for one in cells]


def _text(cell: object, what: str, context: str) -> str:
    """A text, or a number as text."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float) or not str(cell).strip():
        raise DataError(f"{context}: the {what} {cell!r} is no text; correct it, or remove the row")
    return str(cell)


def _answer(cell: Any, options: list[str], base: int) -> int | None:
    """Index of the correct option or `None`; a text is compared as option, then as letter, then as number."""
    text = str(cell).strip()
    if isinstance(cell, str) and text in options:
        return options.index(text)
    if len(text) == 1 and text.upper() in (letters := "ABCDEFGHIJ"[: len(options)]):
        return letters.index(text.upper())
    index = int(text) - base if text.isdecimal() else -1
    return index if 0 <= index < len(options) else None
