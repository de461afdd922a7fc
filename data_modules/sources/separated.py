"""Tables of separated texts (CSV, TSV): their separator, their header, and their rows, every cell a text."""

import csv
import itertools
import logging
from pathlib import Path

import datasets

from data_modules.errors import DataError
from data_modules.sources.encodings import check_encoding, python_encoding

_log = logging.getLogger(__name__)

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
"""Separators that are detected, with their names."""
_NUM_COMPARED = 100
"""Rows that decide between separators that all split the header."""


def read_separated(file: Path, encoding: str, separator: str | None) -> datasets.Dataset:
    """The rows of a CSV or TSV, memory-mapped, every cell a text.

    Args:
        file: The table.
        encoding: Its encoding; utf-8 also reads files with a byte order mark.
        separator: Of a CSV; `None`: detected. A TSV has tabs.

    Raises:
        DataError: It is in another encoding, or its separator is not certain.
        Exception: It is damaged; pandas, pyarrow and datasets each have their own.
    """
    check_encoding(file, encoding)
    codec = python_encoding(encoding)
    separator = "\t" if file.suffix.lower() == ".tsv" else separator or detect_separator(file, codec)
    header = next(iter(_first_rows(file, codec, separator, 1)), [])
    if not header or len(set(header)) < len(header):
        raise ValueError(f"its first line must name each column once, and is {header}")
    features = datasets.Features({name: datasets.Value("string") for name in header})
    # By default, pandas would read "NA" as null and 007 as a number.
    table = datasets.Dataset.from_csv(
        str(file), features=features, sep=separator, keep_default_na=False, encoding=codec, encoding_errors="strict"
    )
    assert isinstance(table, datasets.Dataset)
    return table


def detect_separator(file: Path, codec: str) -> str:
    """The one of `SEPARATORS` that splits the header line; a comma for a table of one column.

    If several split it, the one with which the first 100 rows have as many cells as the header.

    Raises:
        DataError: Several fit.
    """
    by_separator = {one: _first_rows(file, codec, one, 1 + _NUM_COMPARED) for one in SEPARATORS}
    splitting = [one for one, rows in by_separator.items() if rows and len(rows[0]) > 1]
    if len(splitting) > 1:
        even = [one for one in splitting if len({len(row) for row in by_separator[one]}) == 1]
        if len(even) != 1:
            names = " and ".join(f"{SEPARATORS[one]} ({one!r})" for one in even or splitting)
            raise DataError(
                f"{file} may be separated by {names}, as its header line holds each: name the separator of this source "
                f"in separator, for example separator: {(even or splitting)[0]!r}"
            )
        splitting = even
    found = splitting[0] if splitting else ","
    if splitting:
        columns = ", ".join(by_separator[found][0])
        _log.info("%s: separated by %s, columns %s", file, SEPARATORS[found], columns)
    return found


def _first_rows(file: Path, codec: str, separator: str, count: int) -> list[list[str]]:
    """The first rows that are not empty."""
    with file.open(encoding=codec, newline="") as stream:
        try:
            return list(itertools.islice((row for row in csv.reader(stream, delimiter=separator) if row), count))
        except csv.Error:  # a cell beyond the limit of 128 KiB, as with a quotation mark that is not closed
            return []
