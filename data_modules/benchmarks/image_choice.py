"""The questions of a multiple-choice set: texts of the options, and which one is correct."""

from collections.abc import Mapping
from typing import Any

from data_modules.benchmarks.config import ChoiceSetConfig
from data_modules.errors import DataError


def option_texts(config: ChoiceSetConfig, row: Mapping[str, Any], context: str) -> tuple[list[str], int]:
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
