"""Reading the parquet tables of a source with Hugging Face `datasets`."""

import csv
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.paths import resolve_files

_ROWS_AT_A_TIME = 10_000
"""Rows whose texts are in memory together."""


def open_table(patterns: Sequence[str], image: str, columns: Sequence[str]) -> datasets.Dataset:
    """The rows of all matching parquet files, memory-mapped, images left encoded.

    Raises:
        DataError: A pattern matches nothing, a file is damaged, or a column is missing.
    """
    files = resolve_files(patterns)
    for file in files:
        _check_file(file, [image, *columns])
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        table = datasets.Dataset.from_parquet([str(file) for file in files])
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError, ValueError, TypeError) as error:
        names = ", ".join(str(file) for file in files)
        cause = error.__cause__ or error
        raise DataError(f"one of {names} is damaged, or their columns differ ({cause}); {RESTORE}") from error
    finally:
        if not bars:
            datasets.enable_progress_bars()
    assert isinstance(table, datasets.Dataset)
    return keep_encoded(table, image)


def keep_encoded(table: datasets.Dataset, image: str) -> datasets.Dataset:
    """The table, its images given as bytes and not as pictures."""
    if image in table.column_names and isinstance(table.features[image], datasets.Image | dict):
        return table.cast_column(image, datasets.Image(decode=False))
    return table


def stores_paths(file: Path, image: str) -> bool:
    """Whether a parquet file has image paths, not image bytes.

    Raises:
        DataError: The file is damaged or lacks the column.
    """
    _check_file(file, [image])
    kind = pq.read_schema(file).field(image).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def open_paths_table(file: Path) -> datasets.Dataset:
    """The rows of one CSV, TSV, JSONL or parquet file, memory-mapped; every cell of a CSV or TSV is text.

    Raises:
        DataError: The file is damaged.
    """
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if file.suffix == ".parquet":
            table = datasets.Dataset.from_parquet(str(file))
        elif file.suffix == ".jsonl":
            table = datasets.Dataset.from_json(str(file), encoding_errors="replace")
        else:
            table = _read_separated(file, "\t" if file.suffix == ".tsv" else ",")
    except Exception as error:  # pandas, pyarrow and datasets each have their own
        cause = error.__cause__ or error
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise DataError(f"{file} is damaged or empty ({reason}); mend or remove it") from error
    finally:
        if not bars:
            datasets.enable_progress_bars()
    assert isinstance(table, datasets.Dataset)
    return table


def _read_separated(file: Path, separator: str) -> datasets.Dataset:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        header = next(csv.reader(stream, delimiter=separator), [])
    if not header or len(set(header)) < len(header):
        raise ValueError(f"its first line must name each column once, and says {header}")
    features = datasets.Features({name: datasets.Value("string") for name in header})
    encoding = {"encoding": "utf-8-sig", "encoding_errors": "replace"}
    # Without quoting rules of its own, "NA" would be no caption and 007 a number.
    return datasets.Dataset.from_csv(str(file), features=features, sep=separator, keep_default_na=False, **encoding)


RESTORE = (
    "restore it from its origin (the embedded corpus: `git checkout -- data_modules/emoji`, or rebuild it with "
    "`make emoji-corpus`)"
)


def _check_file(file: Path, columns: Sequence[str]) -> None:
    _check_manifest(file)
    try:
        names = set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{file} is damaged ({reason}); {RESTORE}") from error
    for column in columns:
        if column not in names:
            raise DataError(f"{file} has no column '{column}'; its columns are {', '.join(sorted(names))}")


def _check_manifest(file: Path) -> None:
    """Compare the file with the SHA-256 that a `manifest.json` beside it gives (`files: {name: {sha256}}`), if any."""
    manifest = file.parent / "manifest.json"
    if not manifest.is_file():
        return
    try:
        entry = json.loads(manifest.read_text(encoding="utf-8")).get("files", {}).get(file.name)
        expected = entry["sha256"] if entry is not None else None
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{manifest} is damaged ({error!r}); {RESTORE}") from error
    if expected is None:
        return
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise DataError(f"{file} is damaged (its SHA-256 is not the one in {manifest.name}); {RESTORE}")


def matching_rows(table: datasets.Dataset, where: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """Indices of the rows that satisfy every condition, int64, ascending; rows that cannot be read are kept.

    Args:
        table: The rows.
        where: Column -> allowed values, compared as lower-case text for booleans, as text otherwise.
    """
    for column in where:
        if column not in table.column_names:
            raise DataError(f"`where` names a column '{column}' that is not in the table: {table.column_names}")
    if not where:
        return np.arange(len(table), dtype=np.int64)
    allowed = {column: frozenset(values) for column, values in where.items()}
    rows = read_rows(table, list(where), np.arange(len(table)))
    keep = np.fromiter((not row or satisfies(row, allowed) for row in rows), dtype=bool, count=len(table))
    return np.flatnonzero(keep).astype(np.int64)


def satisfies(row: Mapping[str, Any], where: Mapping[str, Collection[str]]) -> bool:
    """Whether a row's cells, as text, are among the allowed ones of every condition."""
    return all(as_text(row.get(column)) in allowed for column, allowed in where.items())


def read_rows(table: datasets.Dataset, columns: Sequence[str], rows: NDArray[np.int64]) -> Iterator[Mapping[str, Any]]:
    """These columns of these rows, in their order; an empty mapping for a row that cannot be read.

    A text that is not UTF-8 makes a row unreadable; it is counted as a fault when the row is drawn.
    """
    cells = table.select_columns(list(columns))
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        block = rows[start : start + _ROWS_AT_A_TIME]
        try:
            found = cells[block]
        except (ValueError, OverflowError):  # UnicodeDecodeError is one, and so are dates before the year 1
            yield from (_readable(cells, int(number)) for number in block)
            continue
        for values in zip(*(found[column] for column in columns), strict=True):
            yield dict(zip(columns, values, strict=True))


def _readable(cells: datasets.Dataset, number: int) -> Mapping[str, Any]:
    try:
        row: Mapping[str, Any] = cells[number]
    except (ValueError, OverflowError):
        return {}
    return row


def identities(table: datasets.Dataset, column: str, rows: NDArray[np.int64], told: str) -> list[str]:
    """The cells of a column in these rows as text, none of them null.

    Args:
        table: The table.
        column: Its column.
        rows: Row numbers.
        told: Whose table it is, for the error.

    Raises:
        DataError: A row has nothing there.
    """
    values = table.select_columns([column]).select(rows)[column]
    for row, value in zip(rows, values, strict=True):
        if value is None:
            raise DataError(f"{told}: row {row} has nothing in the column '{column}'; fill it, or leave the row out")
    return [as_text(value) for value in values]


def as_text(value: object) -> str:
    """A cell as configurations spell it: `true`/`false` for booleans, `str` otherwise."""
    return str(value).lower() if isinstance(value, bool) else str(value)
