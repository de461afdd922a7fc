"""What is checked of an opened source before anything is trained on it: its image paths, and its captions' script."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_modules.errors import DataError
from data_modules.faults import SampleFault, sample_errors
from data_modules.sources.config import SourceConfig
from data_modules.sources.empty_captions import LANGUAGE_NAMES
from data_modules.sources.rows import PairSource
from data_modules.sources.tables import TableSource, row_image
from data_modules.sources.tar_source import TarSource
from data_modules.text.cleaning import clean_texts, count_letters

_log = logging.getLogger(__name__)

NUM_ROWS = 1000
"""Evenly spaced rows of a table whose captions are looked at."""
NUM_SHARD_ROWS = 256
"""The same of shards, each of which is a read of its own."""
NUM_IMAGES = 20
"""Evenly spaced rows whose image paths are looked at."""
MIN_KOREAN, MAX_ENGLISH = 0.05, 0.5
"""Least share of Hangul among the letters of a Korean column, and largest of an English one."""
_MIN_LETTERS = 10
"""Fewer letters decide nothing."""


def check_source(source: PairSource, config: SourceConfig) -> None:
    """Check image paths and captions of a sample of rows; log what the source leaves out. Streams are not looked at.

    Raises:
        DataError: No image path of the sample leads to a file, a caption column is empty in all of it, or its script
            contradicts its language.
    """
    if isinstance(source, TableSource):
        _check_images(source, config)
        for note in source.notes():
            _log.info(note)
    elif not isinstance(source, TarSource):
        return
    if config.has_captions:
        _check_captions(source, config)


def _check_images(source: TableSource, config: SourceConfig) -> None:
    """Raises DataError, with the first problem, if no image of the sample can be read because of its path."""
    rows, problems = source.sample_rows(NUM_IMAGES), list[SampleFault]()
    for number in rows:
        try:
            with sample_errors(str(number)):
                row_image(config, source.table[int(number)], source.folder_of(int(number)))
            return
        except SampleFault as fault:
            problems.append(fault)
    if all(fault.kind in ("unsafe_name", "image_missing") for fault in problems):
        remedy = ""
        if any(fault.kind == "image_missing" for fault in problems) and config.image_root is None:
            remedy = "; name the folder of the images in image_root, if they are elsewhere"
        raise DataError(
            f"source '{source.name}': none of {len(rows)} evenly spaced rows has an image that can be read, the first "
            f"because of {problems[0].detail}{remedy}"
        )


def _check_captions(source: TableSource | TarSource, config: SourceConfig) -> None:
    if not config.check_languages:
        return
    count = NUM_SHARD_ROWS if isinstance(source, TarSource) else NUM_ROWS
    rows = list(itertools.islice(source.texts(count), count))
    fields = dict.fromkeys([*config.captions.values(), *config.caption_fields])
    if isinstance(source, TarSource):  # a table knows its empty columns
        _check_fields(source.name, fields, rows)
    letters = {field: np.sum([*_letters(rows, field)], axis=0) for field in fields}
    named = [(language, field) for language, field in config.captions.items()]
    if config.language_field is None and config.language != "detect":
        named = [(config.language, field) for field in config.caption_fields]
    shares = {field: int(hangul) / max(1, int(total)) for field, (hangul, total) in letters.items()}
    wrong = [
        (language, field)
        for language, field in named
        if letters[field][1] >= _MIN_LETTERS and _contradicts(language, shares[field])
    ]
    if wrong:
        raise DataError(_contradiction(source.name, config, named, wrong, shares, len(rows)))


def _check_fields(name: str, fields: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises DataError if no sample of shards has a text in a field."""
    for field in fields:
        if rows and not any(row.get(field) for row in rows):
            present = ", ".join(sorted({str(one) for row in rows for one in row})) or "none"
            raise DataError(
                f"source '{name}': no text in '{field}' in any of {len(rows)} evenly spaced samples; their fields are "
                f"{present}: correct or remove the name, or set check_languages: false if it is rarer"
            )


def _contradicts(language: str, share: float) -> bool:
    return share < MIN_KOREAN if language == "ko" else share > MAX_ENGLISH


def _contradiction(
    name: str,
    config: SourceConfig,
    named: list[tuple[str, str]],
    wrong: list[tuple[str, str]],
    shares: Mapping[str, float],
    num_rows: int,
) -> str:
    found = " and ".join(
        f"'{field}', named as {LANGUAGE_NAMES[language]}, is {shares[field]:.0%} Hangul" for language, field in named
    )
    if len(wrong) == len(named) > 1 and config.captions:
        remedy = f"swap them (captions: {{ko: {config.captions['en']}, en: {config.captions['ko']}}})"
    else:
        key = "captions" if config.captions else "language"
        remedy = f"correct {key} for " + " and ".join(f"'{field}'" for _, field in wrong)
    return (
        f"source '{name}': by the letters of {num_rows:,} evenly spaced rows, {found}: {remedy}, or set "
        "check_languages: false if this is meant"
    )


def _letters(rows: list[Mapping[str, Any]], field: str) -> Iterator[tuple[int, int]]:
    """Hangul and all letters of a field in each row; of what is no text, none."""
    yield 0, 0
    for row in rows:
        try:
            for text in clean_texts(row.get(field), field, []):
                yield count_letters(text)
        except SampleFault:
            continue
