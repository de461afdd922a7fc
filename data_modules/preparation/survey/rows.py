"""A sample of the rows of each format, evenly spread, without opening the whole data set."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.image_files import IMAGE_ENDINGS
from data_modules.preparation.survey.files import Kind, pictures_below
from data_modules.sources.encodings import check_encoding, fitting_encodings, python_encoding
from data_modules.sources.separated import SEPARATORS
from data_modules.sources.tar_scan import (
    BLOCK,
    JSON,
    TEXT,
    Member,
    ReadAt,
    TarDamage,
    key_and_ending,
    open_shard,
    parse_row,
    read_members,
)

MAX_ROWS = 500
"""Rows that are looked at."""
_MAX_PARTS = 8
"""Shards or row groups that the rows are taken from."""
_MAX_COUNTED_BYTES = 1 << 33
"""Larger sets of shards are counted by sample."""
IMAGE = "image"
"""Column of the images of shards and of pictures alone."""


@dataclass(slots=True, kw_only=True)
class SampledRows:
    """Rows of a data set."""

    columns: list[str]
    num_rows: int
    is_estimated: bool = False
    """Whether `num_rows` was calculated from a part of the files."""
    rows: list[dict[str, Any]]
    """Up to `MAX_ROWS`."""
    folders: list[Path]
    """Folder of the file of each row."""
    encoding: str = "utf-8"
    """Of a CSV or TSV file; JSONL is UTF-8."""
    separator: str | None = None
    """Of a CSV or TSV file."""
    split: str | None = None
    """Split of a Hugging Face dataset."""
    splits: list[str] = field(default_factory=list)
    """All splits of a Hugging Face dataset; empty: it was saved without splits."""
    faults: Counter[str] = field(default_factory=Counter)
    """Kind -> rows of the sample that cannot be read at all."""


def sample_rows(kind: Kind, files: Sequence[Path]) -> SampledRows:
    """Up to `MAX_ROWS` rows of the files, all of one kind.

    Raises:
        DataError: A file cannot be read, or there is no row.
    """
    match kind:
        case Kind.shards:
            found = _of_shards(files)
        case Kind.dataset:
            found = _of_dataset(files[0])
        case Kind.pictures:
            found = _of_pictures(files[0])
        case Kind.table:
            parts = [_of_table(file) for file in files]
            found = _joined(files, parts)
    if not found.rows:
        raise DataError(f"{files[0]} holds no usable row; give files with data")
    return found


def every_nth(items: Iterator[Any], limit: int) -> tuple[list[Any], int]:
    """Evenly spread items of an iterator of unknown length, at most `limit` of them, and its length."""
    kept: list[Any] = []
    stride, length = 1, 0
    for item in items:
        if length % stride == 0:
            kept.append(item)
            if len(kept) > 2 * limit:
                kept, stride = kept[::2], 2 * stride
        length += 1
    return spread(kept, limit), length


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` items of a sequence, evenly spread."""
    return [items[index] for index in spread_numbers(len(items), limit)]


def spread_numbers(length: int, limit: int) -> list[int]:
    """At most `limit` numbers below `length`, evenly spread, ascending."""
    numbers = np.unique(np.linspace(0, max(0, length - 1), min(length, limit)).astype(np.int64))
    return [int(one) for one in numbers]


def _joined(files: Sequence[Path], parts: Sequence[SampledRows]) -> SampledRows:
    first = parts[0]
    for file, one in zip(files, parts, strict=True):
        if set(one.columns) != set(first.columns):
            raise DataError(
                f"{file} has the columns {', '.join(one.columns)}, and {files[0]} has {', '.join(first.columns)}; give "
                "tables of the same columns"
            )
        if (one.encoding, one.separator) != (first.encoding, first.separator):
            raise DataError(f"{file} differs from {files[0]} in encoding or separator; convert one of them")
    pairs = [pair for one in parts for pair in zip(one.rows, one.folders, strict=True)]
    chosen = spread(pairs, MAX_ROWS)
    return SampledRows(
        columns=first.columns,
        num_rows=sum(one.num_rows for one in parts),
        rows=[row for row, _ in chosen],
        folders=[folder for _, folder in chosen],
        encoding=first.encoding,
        separator=first.separator,
        faults=sum((one.faults for one in parts), Counter[str]()),
    )


def _of_table(file: Path) -> SampledRows:
    try:
        if file.suffix.lower() == ".parquet":
            return _of_parquet(file)
        return _of_json_lines(file) if file.suffix.lower() == ".jsonl" else _of_separated(file)
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise DataError(f"{file} cannot be read ({error}); restore or correct it") from error


def _of_parquet(file: Path) -> SampledRows:
    table = pq.ParquetFile(file)
    groups = spread_numbers(table.num_row_groups, _MAX_PARTS)
    each = -(-MAX_ROWS // max(1, len(groups)))
    rows: list[dict[str, Any]] = []
    for group in groups:
        batch = next(table.iter_batches(batch_size=each, row_groups=[group]), None)
        rows += batch.to_pylist() if batch is not None else []
    names = table.schema_arrow.names
    return SampledRows(columns=names, num_rows=table.metadata.num_rows, rows=rows, folders=[file.parent] * len(rows))


def _of_json_lines(file: Path) -> SampledRows:
    check_encoding(file, "utf-8", "save it as UTF-8 instead of {}")
    with file.open(encoding="utf-8-sig") as stream:
        lines, length = every_nth((line for line in stream if line.strip()), MAX_ROWS)
    rows, faults = [], Counter[str]()
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            faults["metadata_undecodable"] += 1
    columns = list(dict.fromkeys(name for row in rows for name in row))
    folders = [file.parent] * len(rows)
    return SampledRows(columns=columns, num_rows=length, rows=rows, folders=folders, faults=faults)


def _of_separated(file: Path) -> SampledRows:
    encoding = detect_encoding(file)
    separator = detect_separator(file, encoding)
    with file.open(encoding=python_encoding(encoding), newline="") as stream:
        reader = csv.reader(stream, delimiter=separator)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{file}: its first line must name each column once, and is {', '.join(header)}")
        cells, length = every_nth(_checked(file, reader, len(header)), MAX_ROWS)
    rows = [dict(zip(header, row, strict=False)) for row in cells]
    folders = [file.parent] * len(rows)
    return SampledRows(
        columns=header, num_rows=length, rows=rows, folders=folders, encoding=encoding, separator=separator
    )


def _checked(file: Path, reader: Any, num_columns: int) -> Iterator[list[str]]:
    """The rows that are not empty; raises DataError for one with more cells than columns, which no reader accepts."""
    for row in reader:
        if len(row) > num_columns:
            raise DataError(
                f"{file}, line {reader.line_num}: {len(row)} cells, and the first line names {num_columns} columns; "
                "quote the text that holds a separator"
            )
        if row:
            yield row


def detect_encoding(file: Path) -> str:
    """UTF-8 if the file decodes, else the encoding of Korean texts that fits it best.

    Raises:
        DataError: None fits.
    """
    try:
        check_encoding(file, "utf-8")
    except DataError:
        if not (fitting := fitting_encodings(file, "utf-8")):
            raise
        return fitting[0]
    return "utf-8"


def detect_separator(file: Path, encoding: str) -> str:
    """The separator that cuts the first lines of a CSV or TSV file into the most columns, equally many in each."""
    if file.suffix.lower() == ".tsv":
        return "\t"
    with file.open(encoding=python_encoding(encoding), newline="") as stream:
        head = stream.read(1 << 16)

    def columns(separator: str) -> int:
        rows = [row for row in csv.reader(io.StringIO(head, newline=""), delimiter=separator) if row]
        widths = {len(row) for row in rows[:-1][:50] or rows}
        return widths.pop() if len(widths) == 1 else 0

    return max(SEPARATORS, key=columns)


def _of_dataset(folder: Path) -> SampledRows:
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # of Arrow, of builders, ...
        raise DataError(f"{folder} cannot be opened as a dataset of save_to_disk ({error}); save it again") from error
    splits = list(loaded) if isinstance(loaded, datasets.DatasetDict) else []
    split = "train" if "train" in splits else splits[0] if splits else None
    rows = loaded[split] if split is not None else loaded
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    numbers = spread_numbers(len(rows), MAX_ROWS)
    found = [dict(rows[number]) for number in numbers]
    return SampledRows(
        columns=list(rows.column_names),
        num_rows=len(rows),
        rows=found,
        folders=[folder] * len(found),
        split=split,
        splits=splits,
    )


def _of_pictures(folder: Path) -> SampledRows:
    files, length = every_nth(pictures_below(folder), MAX_ROWS)
    rows = [{IMAGE: str(file.relative_to(folder))} for file in files]
    return SampledRows(columns=[IMAGE], num_rows=length, rows=rows, folders=[folder] * len(rows))


def _of_shards(files: Sequence[Path]) -> SampledRows:
    chosen = spread(files, _MAX_PARTS)
    each = -(-MAX_ROWS // len(chosen))
    rows: list[dict[str, Any]] = []
    counts: dict[Path, int] = {}
    faults = Counter[str]()
    for file in chosen:
        counts[file] = _read_shard(file, each, rows, faults)
    sizes = {file: file.stat().st_size for file in files}
    is_estimated = len(chosen) < len(files) and sum(sizes.values()) > _MAX_COUNTED_BYTES
    if is_estimated:
        looked_at = sum(sizes[file] for file in chosen)
        num_rows = round(sum(counts.values()) * sum(sizes.values()) / max(1, looked_at))
    else:
        num_rows = sum(counts[file] if file in counts else _read_shard(file, 0, [], faults) for file in files)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return SampledRows(
        columns=columns,
        num_rows=num_rows,
        is_estimated=is_estimated,
        rows=rows,
        folders=[chosen[0].parent] * len(rows),
        faults=faults,
    )


def count_samples(file: Path) -> int:
    """Images of a tar shard."""
    return _read_shard(file, 0, [], Counter())


def _read_shard(file: Path, limit: int, rows: list[dict[str, Any]], faults: Counter[str]) -> int:
    """The number of samples with an image; adds up to `limit` of them to `rows`, and faults of the shard."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        with open_shard(str(file)) as read_at:
            try:
                for member in read_members(read_at, file.stat().st_size):
                    key, ending = key_and_ending(member.name)
                    if ending in (TEXT, JSON) or ending in IMAGE_ENDINGS:
                        kind = IMAGE if ending in IMAGE_ENDINGS else ending
                        samples.setdefault(key, {}).setdefault(kind, member)
            except TarDamage as damage:
                faults[damage.kind] += 1
            with_image = [members for members in samples.values() if IMAGE in members]
            faults["image_missing"] += len(samples) - len(with_image) if limit else 0
            for members in spread(with_image, limit) if limit else []:
                try:
                    rows.append(_shard_row(members, read_at))
                except SampleFault as fault:
                    faults[fault.kind] += 1
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error}); restore or remove it") from error
    return len(with_image)


def _shard_row(members: Mapping[str, Member], read_at: ReadAt) -> dict[str, Any]:
    def content(kind: str) -> bytes | None:
        member = members.get(kind)
        return read_at((member.header_block + 1) * BLOCK, member.size) if member is not None else None

    row = parse_row(None, content(JSON))
    row.pop(IMAGE, None)
    text = content(TEXT)
    if text is not None:
        row[TEXT] = text.decode("utf-8", errors="replace")
    return row | {IMAGE: content(IMAGE)}
