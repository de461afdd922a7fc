"""Rows that are kept from training to evaluate on: by a split that exists, by whole files, or by the image's name."""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.languages import LANGUAGES
from data_modules.preparation.survey.columns import find_split, script_of
from data_modules.preparation.survey.files import DataFiles, Kind
from data_modules.preparation.survey.images import is_usable
from data_modules.preparation.survey.rows import SampledRows
from data_modules.sources.encodings import python_encoding

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

PlaceOf = Callable[[Mapping[str, Any]], Path | None]
"""Row -> the table that it is written to; `None`: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenParts:
    """The tables that `write_parts` writes."""

    train: Path
    evaluation: dict[str, Path]
    """Language -> its table; the empty language: all."""

    @property
    def all(self) -> list[Path]:
        """Every table."""
        return [self.train, *self.evaluation.values()]


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
    """Share of `SampledRows.num_rows` that is not trained on."""


def choose_held_out(files: DataFiles, rows: SampledRows, *, can_copy: bool) -> HeldOut:
    """What to evaluate on.

    Args:
        files: The files.
        rows: Their sample.
        can_copy: Whether the tables may be written again: images lie in files of their own, relative to one folder.
    """
    train = files.train
    if (found := find_split(rows)) is not None:
        column, values, held_out = found
        reason = f"the rows whose {column} is {held_out[0]} are held out"
        where, where_train = {column: held_out}, {column: values}
        share = sum(str(row.get(column)) not in values for row in rows.rows) / len(rows.rows)
        by = HeldOutBy.column
        return HeldOut(by=by, reason=reason, train=train, where=where, where_train=where_train, share=share)
    if files.held_out:
        reason = f"{_count(files.held_out)} held out by name: {files.held_out[0].name}"
        return HeldOut(by=HeldOutBy.files, reason=reason, train=train, files=files.held_out)
    if split := next((one for one in _HELD_OUT_SPLITS if one in rows.splits), None):
        return HeldOut(by=HeldOutBy.split, reason=f"the split {split} is held out", train=train, split=split)
    if rows.num_rows < MIN_ROWS:
        reason = f"nothing is held out of {rows.num_rows} rows (fewer than {MIN_ROWS})"
        return HeldOut(by=HeldOutBy.nothing, reason=reason, train=train)
    last_share = train[-1].stat().st_size / max(1, sum(file.stat().st_size for file in train))
    if len(train) > 1 and last_share <= _MAX_FILE_SHARE:
        reason = f"the last of {len(train)} files, {train[-1].name}, is held out"
        return HeldOut(by=HeldOutBy.files, reason=reason, train=train[:-1], files=train[-1:], share=last_share)
    if can_copy and files.kind is Kind.table and rows.num_rows <= MAX_WRITTEN_ROWS:
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


def write_parts(
    held_out: HeldOut, rows: SampledRows, *, image: str, root: Path | None, mixed: str | None, folder: Path
) -> WrittenParts:
    """Write the rows for training and those for evaluation, text in UTF-8 and separated by commas or tabs.

    A row whose image cannot be used is trained on, where it is counted; an evaluation would refuse it.

    Args:
        held_out: By `HeldOutBy.hash`.
        rows: The sample of the files, with their encoding and separator.
        image: Column of image paths.
        root: Folder that they are relative to; `None`: that of the files.
        mixed: Column of captions in both languages, by which evaluation rows are divided; `None`: there is none.
        folder: Where the tables `train.*` and `evaluation.*` (`evaluation_ko.*`, `evaluation_en.*`) are written.
    """
    ending = held_out.train[0].suffix.lower()
    parts = WrittenParts(
        train=folder / f"train{ending}",
        evaluation={one: folder / f"evaluation{one and '_'}{one}{ending}" for one in (LANGUAGES if mixed else ("",))},
    )

    def place(row: Mapping[str, Any]) -> Path | None:
        path = str(row.get(image) or "")
        if not is_held_out(path, held_out.share) or not is_usable(path, root or held_out.train[0].parent):
            return parts.train
        return parts.evaluation.get(script_of(str(row.get(mixed) or "")) or "other" if mixed else "")

    writer = {".parquet": _write_parquet, ".jsonl": _write_json_lines}.get(ending, _write_separated)
    writer(held_out.train, rows, parts, place)
    return parts


def _write_separated(files: Sequence[Path], rows: SampledRows, parts: WrittenParts, place: PlaceOf) -> None:
    separator = "\t" if parts.train.suffix == ".tsv" else ","
    with ExitStack() as stack:
        writers: dict[Path, csv.DictWriter[str]] = {}
        for part in parts.all:
            stream = stack.enter_context(part.open("w", encoding="utf-8", newline=""))
            writers[part] = csv.DictWriter(stream, rows.columns, delimiter=separator)
            writers[part].writeheader()
        for file in files:
            source = stack.enter_context(file.open(encoding=python_encoding(rows.encoding), newline=""))
            for row in csv.DictReader(source, delimiter=rows.separator or ","):
                if (chosen := place(row)) is not None:
                    writers[chosen].writerow(row)


def _write_json_lines(files: Sequence[Path], _: SampledRows, parts: WrittenParts, place: PlaceOf) -> None:
    with ExitStack() as stack:
        streams = {part: stack.enter_context(part.open("w", encoding="utf-8")) for part in parts.all}
        for file in files:
            source = stack.enter_context(file.open(encoding="utf-8-sig"))
            for line in source:
                if line.strip() and (part := place(_parsed(line))) is not None:
                    streams[part].write(line.rstrip("\n") + "\n")


def _parsed(line: str) -> Mapping[str, Any]:
    """The row of a line; empty if it is damaged, and then trained on, where it is counted."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _write_parquet(files: Sequence[Path], _: SampledRows, parts: WrittenParts, place: PlaceOf) -> None:
    table = pq.read_table(list(files))
    places = [place(row) for row in table.to_pylist()]
    for part in parts.all:
        pq.write_table(table.filter(pa.array([one == part for one in places])), part)
