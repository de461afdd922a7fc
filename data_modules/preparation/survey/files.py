"""Which files below the given paths are the data: tar shards, tables, a saved dataset, or pictures alone."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.errors import DataError
from data_modules.image_files import IMAGE_ENDINGS
from data_modules.sources.config import TABLE_ENDINGS

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables of a Hugging Face image folder."""
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_TRAIN = ("train", "training")
_HELD_OUT = ("validation", "valid", "val", "dev", "test", "heldout", "eval", "evaluation")
"""Words for evaluation data, the preferred ones first: a test set is left alone if there is a validation set."""
_WORD = re.compile(r"[a-z]+")


class Kind(Enum):
    """How the data is stored."""

    shards = "tar shards"
    table = "table"
    dataset = "Hugging Face dataset"
    pictures = "folder of pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFiles:
    """One set of files of the same kind."""

    kind: Kind
    train: list[Path]
    """Files for training, sorted; of a dataset or of pictures the one folder."""
    held_out: list[Path] = field(default_factory=list)
    """Files that their names call validation or test data."""
    picture_folders: list[Path] = field(default_factory=list)
    """Where the images of a table may lie, besides the folders of its files."""
    notes: list[str] = field(default_factory=list)
    """What was found and is not used, one sentence each."""


def find_files(paths: Sequence[Path]) -> list[DataFiles]:
    """The sets of files below the given paths that may be the data, the most likely first.

    Args:
        paths: Files of one kind, or a folder; folders beside tables are where their images lie.

    Raises:
        DataError: A path does not exist, the files are of several kinds, or there is no data.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; give a folder with data, or its files")
    files = [path.resolve() for path in paths if path.is_file()]
    folders = [path.resolve() for path in paths if path.is_dir()]
    if files:
        return _of_files(files, folders)
    if len(folders) > 1:
        raise DataError(
            f"{', '.join(map(str, folders))} are several folders: give one, or a table and the folders of its images"
        )
    return _of_folder(folders[0])


def _of_files(files: list[Path], folders: list[Path]) -> list[DataFiles]:
    kinds = {_kind_of(file) for file in files}
    if None in kinds:
        other = next(file for file in files if _kind_of(file) is None)
        if _is_spreadsheet(other):
            raise DataError(f"{other} is a spreadsheet: save it as CSV there, and give that file")
        raise DataError(f"{other} is no data that is known here: give .tar, {', '.join(TABLE_ENDINGS)}, or a folder")
    if len(kinds) > 1:
        raise DataError("tar files and tables were given: make each a set of its own, one `kelip init` for each")
    if kinds == {Kind.shards}:
        if folders:
            raise DataError(f"{folders[0]} is a folder beside tar files, which hold their images: leave it out")
        return [_split(Kind.shards, files)]
    return _tables(files, folders)


def _kind_of(file: Path) -> Kind | None:
    ending = file.suffix.lower()
    return Kind.shards if ending == ".tar" else Kind.table if ending in TABLE_ENDINGS else None


def _of_folder(folder: Path) -> list[DataFiles]:
    if is_saved_dataset(folder):
        return [DataFiles(kind=Kind.dataset, train=[folder])]
    below = sorted(_files_below(folder))
    if shards := [file for file in below if _kind_of(file) is Kind.shards]:
        return [_with_notes(_split(Kind.shards, shards), _unused(below, Kind.table, "beside the tar files"))]
    tables = [file for file in below if _kind_of(file) is Kind.table]
    metadata = [file for file in tables if file.name in _METADATA]
    if metadata:
        rest = [file for file in tables if file not in metadata]
        notes = _unused(rest, Kind.table, "beside metadata files")
        return [_with_notes(one, notes) for one in _tables(metadata, [])]
    has_pictures = next(pictures_below(folder), None) is not None
    alone = [DataFiles(kind=Kind.pictures, train=[folder])] if has_pictures else []
    notes = [f"{file.name} is a spreadsheet and not read: save it as CSV" for file in below if _is_spreadsheet(file)]
    found = [_with_notes(one, notes) for one in _tables(tables, [folder]) + alone]
    if not found:
        raise DataError(
            f"{folder} holds no data: neither tar files, nor tables ({', '.join(TABLE_ENDINGS)}), nor a dataset of "
            "save_to_disk, nor images"
        )
    return found


def _is_spreadsheet(file: Path) -> bool:
    return file.suffix.lower() in _SPREADSHEETS


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by Hugging Face `save_to_disk`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def pictures_below(folder: Path) -> Iterator[Path]:
    """The image files of a folder and of all folders below it, by their endings, in a fixed order."""
    for file in _files_below(folder):
        if file.suffix.lower().lstrip(".") in IMAGE_ENDINGS:
            yield file


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def _tables(files: Iterable[Path], folders: list[Path]) -> list[DataFiles]:
    """Tables by ending and columns, the largest first."""
    alike: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        alike.setdefault((file.suffix.lower(), _header(file)), []).append(file)
    groups = sorted(alike.values(), key=lambda group: -sum(file.stat().st_size for file in group))
    found = [replace(_split(Kind.table, group), picture_folders=folders) for group in groups]
    return [
        _with_notes(
            one,
            _unused(
                [file for other in groups if other is not group for file in other], Kind.table, "with other columns"
            ),
        )
        for one, group in zip(found, groups, strict=True)
    ]


def _header(file: Path) -> str:
    """The columns of a table, in any notation that differs between tables of other columns."""
    try:
        if file.suffix.lower() == ".parquet":
            return repr(pq.read_schema(file).names)
        with file.open("rb") as stream:
            line = stream.readline(1 << 20)
        return repr(sorted(json.loads(line)) if file.suffix.lower() == ".jsonl" else line.strip())
    except (OSError, ValueError, TypeError, pa.ArrowException):
        return str(file)


def _split(kind: Kind, files: Sequence[Path]) -> DataFiles:
    """The files with those held out whose names say so, or whose folders do."""
    root = Path(os.path.commonpath([file.parent for file in files]))
    by_word: dict[str | None, list[Path]] = {}
    for file in sorted(set(files)):
        words = _WORD.findall(str(file.relative_to(root).with_suffix("")).lower())
        by_word.setdefault(next((one for one in words if one in _HELD_OUT), None), []).append(file)
    train, notes = by_word.pop(None, []), []
    word = next((one for one in _HELD_OUT if one in by_word), None)
    held_out = by_word.pop(word, []) if word is not None else []
    if not train:
        return DataFiles(kind=kind, train=sorted(files))
    for other, left in by_word.items():
        notes.append(f"{len(left)} file(s) called {other} are not used: {_named(left)}")
    return DataFiles(kind=kind, train=train, held_out=held_out, notes=notes)


def _unused(files: Iterable[Path], kind: Kind, where: str) -> list[str]:
    left = [file for file in files if _kind_of(file) is kind]
    return [f"{len(left)} table(s) {where} are not used: {_named(left)}"] if left else []


def _with_notes(found: DataFiles, notes: list[str]) -> DataFiles:
    return replace(found, notes=[*found.notes, *notes])


def _named(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
