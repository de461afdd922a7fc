"""Rows that are kept from training to evaluate on: by a split that exists, by whole files, or by the image's name."""

import csv
import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pyarrow.parquet as pq

from data_modules.preparation.survey.columns import find_split
from data_modules.preparation.survey.files import DataFiles, Kind
from data_modules.preparation.survey.rows import SampledRows

MIN_ROWS = 40
"""Smaller sets are trained on as a whole."""
SHARE = 0.05
FEWEST, MOST = 20, 1000
"""Rows that are held out: `SHARE` of all, within these limits."""
MAX_WRITTEN_ROWS = 2_000_000
"""Larger tables are not written again in two parts."""
_MAX_FILE_SHARE = 0.25
"""Largest share of the files that one held-out file may be."""
_HELD_OUT_SPLITS = ("validation", "valid", "val", "dev", "test")

Parts = tuple[Path, Path]
"""The tables for training and for evaluation."""


class HeldOutBy(Enum):
    """What separates the rows for evaluation from those for training."""

    column = "a column of splits"
    split = "a split of the dataset"
    files = "files"
    hash = "a hash of the image's name"
    nothing = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The rows for evaluation."""

    by: HeldOutBy
    reason: str
    """One sentence: what is held out, or why nothing is and how it can be."""
    train: list[Path]
    """Files for training; of `HeldOutBy.hash` those that `write_parts` divides."""
    files: list[Path] = field(default_factory=list)
    """Files for evaluation, if they are others."""
    where_train: dict[str, list[str]] = field(default_factory=dict)
    where: dict[str, list[str]] = field(default_factory=dict)
    """Condition on the rows for evaluation."""
    split: str | None = None
    """Split of a dataset for evaluation."""
    share: float = 0.0
    """Share of the rows that `HeldOutBy.hash` holds out."""


def choose_held_out(files: DataFiles, rows: SampledRows, *, has_paths: bool) -> HeldOut:
    """What to evaluate on.

    Args:
        files: The files.
        rows: Their sample.
        has_paths: Whether the rows are small, since images lie in files of their own.
    """
    train = files.train
    if (found := find_split(rows)) is not None:
        column, values, held_out = found
        reason = f"the rows whose {column} is {held_out[0]} are held out"
        where, where_train = {column: held_out}, {column: values}
        return HeldOut(by=HeldOutBy.column, reason=reason, train=train, where=where, where_train=where_train)
    if files.held_out:
        reason = f"{_count(files.held_out)} held out by name: {files.held_out[0].name}"
        return HeldOut(by=HeldOutBy.files, reason=reason, train=train, files=files.held_out)
    if split := next((one for one in _HELD_OUT_SPLITS if one in rows.splits), None):
        return HeldOut(by=HeldOutBy.split, reason=f"the split {split} is held out", train=train, split=split)
    if rows.num_rows < MIN_ROWS:
        reason = f"nothing is held out of {rows.num_rows} rows (fewer than {MIN_ROWS})"
        return HeldOut(by=HeldOutBy.nothing, reason=reason, train=train)
    last = train[-1]
    if len(train) > 1 and last.stat().st_size <= _MAX_FILE_SHARE * sum(file.stat().st_size for file in train):
        reason = f"the last of {len(train)} files, {last.name}, is held out"
        return HeldOut(by=HeldOutBy.files, reason=reason, train=train[:-1], files=[last])
    if has_paths and files.kind is Kind.table and rows.num_rows <= MAX_WRITTEN_ROWS:
        number = min(MOST, max(FEWEST, round(SHARE * rows.num_rows)))
        reason = f"about {number:,} rows are held out by a hash of the image's name, in a table of their own"
        return HeldOut(by=HeldOutBy.hash, reason=reason, train=train, share=number / rows.num_rows)
    return HeldOut(by=HeldOutBy.nothing, reason=f"nothing is held out: {_remedy(files.kind)}", train=train)


def _count(files: list[Path]) -> str:
    return "1 file is" if len(files) == 1 else f"{len(files)} files are"


def _remedy(kind: Kind) -> str:
    """How rows can be held out of data of this kind."""
    return {
        Kind.shards: "keep some tar files for evaluation, and name them as the table of a set (docs/own-data.md)",
        Kind.dataset: "save it with a split `test`: dataset.train_test_split(test_size=0.05, seed=0).save_to_disk(...)",
    }.get(kind, "add a column `split` with the values train and test")


def is_held_out(name: str, share: float) -> bool:
    """Whether an image's name is among this share of all names, by its SHA-256: rows of one image stay together."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return number < share * 2**64


def write_parts(held_out: HeldOut, rows: SampledRows, image: str, folder: Path) -> Parts:
    """Write the rows for training and those for evaluation as `train.*` and `evaluation.*`, text in UTF-8.

    Args:
        held_out: By `HeldOutBy.hash`.
        rows: The sample of the files, with their encoding and separator.
        image: Column of image paths.
        folder: Where the tables are written.

    Returns:
        Both files.
    """
    ending = held_out.train[0].suffix.lower()
    parts = (folder / f"train{ending}", folder / f"evaluation{ending}")
    writer = {".parquet": _write_parquet, ".jsonl": _write_json_lines}.get(ending, _write_separated)
    writer(held_out, rows, image, parts)
    return parts


def _write_separated(held_out: HeldOut, rows: SampledRows, image: str, parts: Parts) -> None:
    separator = "\t" if parts[0].suffix == ".tsv" else ","
    with ExitStack() as stack:
        streams = [stack.enter_context(part.open("w", encoding="utf-8", newline="")) for part in parts]
        writers = [csv.DictWriter(stream, rows.columns, delimiter=separator) for stream in streams]
        for writer in writers:
            writer.writeheader()
        for file in held_out.train:
            source = stack.enter_context(file.open(encoding=rows.encoding, newline=""))
            if source.read(1) != "\ufeff":
                source.seek(0)
            for row in csv.DictReader(source, delimiter=rows.separator or ","):
                row.pop(None, None)  # type: ignore[call-overload]  # csv's key of surplus cells
                writers[is_held_out(row.get(image) or "", held_out.share)].writerow(row)


def _write_json_lines(held_out: HeldOut, rows: SampledRows, image: str, parts: Parts) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(part.open("w", encoding="utf-8")) for part in parts]
        for file in held_out.train:
            source = stack.enter_context(file.open(encoding=rows.encoding))
            for line in source:
                if line.strip():
                    streams[is_held_out(_image_of(line, image), held_out.share)].write(line.rstrip("\n") + "\n")


def _image_of(line: str, image: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return ""
    return str(row.get(image)) if isinstance(row, dict) else ""


def _write_parquet(held_out: HeldOut, _: SampledRows, image: str, parts: Parts) -> None:
    table = pq.read_table(held_out.train)
    marks = [is_held_out(str(name), held_out.share) for name in table[image].to_pylist()]
    for part, wanted in zip(parts, (False, True), strict=True):
        pq.write_table(table.filter([mark is wanted for mark in marks]), part)
