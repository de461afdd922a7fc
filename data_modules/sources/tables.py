"""Pairs from tables (parquet, CSV, TSV, JSONL) and Hugging Face datasets, by random access."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault, encodable, sample_errors
from data_modules.paths import resolve_files, resolve_path
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.empty_captions import CaptionedPairs
from data_modules.sources.encodings import check_encoding, undecodable
from data_modules.sources.languages import LanguageRows, Marked
from data_modules.sources.parquet.table import ParquetTable
from data_modules.sources.rows import (
    EveryNth,
    Rows,
    language_mark,
    languages_of,
    make_record,
    pairs_per_row,
    records_one_by_one,
    row_texts,
    single_record,
    text_fields,
)
from data_modules.sources.separated import read_separated

_ALLOW_PATHS = ": make it relative to the table, name its folder in image_root, or set allow_absolute_paths: true"
_ROWS_AT_A_TIME = 10_000
"""Rows whose texts are in memory together."""
TextRows: TypeAlias = ParquetTable | datasets.Dataset
"""The rows of a table, which both give by the same methods."""
RESTORE = (
    "restore it from its origin (the embedded corpus: `git checkout -- data_modules/emoji`, or rebuild it with "
    "`make emoji-corpus`)"
)


def open_table(patterns: Sequence[str], image: str | None, columns: Sequence[str]) -> datasets.Dataset:
    """The rows of all matching parquet files, memory-mapped, images left encoded; `image` `None`: none are needed.

    Raises:
        DataError: A pattern matches nothing, a file is damaged, or a column is missing.
    """
    files = resolve_files(patterns)
    for file in files:
        _check_parquet(file, [*([image] if image is not None else []), *columns])
    try:
        with _no_progress_bars():
            table = datasets.Dataset.from_parquet([str(file) for file in files])
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError, ValueError, TypeError) as error:
        names = ", ".join(str(file) for file in files)
        cause = error.__cause__ or error
        raise DataError(f"one of {names} is damaged, or their columns differ ({cause}); {RESTORE}") from error
    assert isinstance(table, datasets.Dataset)
    return table if image is None else keep_encoded(table, image)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()


def keep_encoded(table: datasets.Dataset, image: str) -> datasets.Dataset:
    """The table with its images as bytes, not decoded."""
    if image in table.column_names and isinstance(table.features[image], datasets.Image | dict):
        return table.cast_column(image, datasets.Image(decode=False))
    return table


def stores_paths(file: Path, image: str) -> bool:
    """Whether a parquet file holds image paths, not image bytes.

    Raises:
        DataError: The file is damaged or lacks the column.
    """
    _check_parquet(file, [image])
    return _is_text(pq.read_schema(file).field(image).type)


def open_paths_table(file: Path, encoding: str = "utf-8", separator: str | None = None) -> datasets.Dataset:
    """The rows of one CSV, TSV, JSONL or parquet file, memory-mapped; every cell of a CSV or TSV is text.

    Args:
        file: The table.
        encoding: Of a CSV or TSV; JSONL is UTF-8.
        separator: Of a CSV; `None`: detected.

    Raises:
        DataError: The file is damaged, in another encoding, or its separator is not certain.
    """
    try:
        with _no_progress_bars():
            if file.suffix == ".parquet":
                table = datasets.Dataset.from_parquet(str(file))
            elif file.suffix == ".jsonl":
                check_encoding(file, "utf-8", "save it as UTF-8 instead of {}")
                table = datasets.Dataset.from_json(str(file))
            else:
                table = read_separated(file, encoding, separator)
    except DataError:
        raise
    except Exception as error:  # pandas, pyarrow and datasets each have their own
        if any(isinstance(one, UnicodeError) for one in (error, error.__cause__)) and file.suffix != ".parquet":
            raise undecodable(file, encoding) from error
        reason = _reason(error.__cause__ or error)
        raise DataError(f"{file} is damaged or empty ({reason}); fix or remove it") from error
    assert isinstance(table, datasets.Dataset)
    return table


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check_parquet(file: Path, columns: Sequence[str]) -> None:
    check_manifest(file)
    try:
        names = set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({_reason(error)}); {RESTORE}") from error
    check_columns(file, names, columns)


def check_columns(place: object, present: Iterable[str], needed: Iterable[str]) -> None:
    """Raises DataError, with `place` as its subject, if a needed column is missing."""
    names = sorted(map(str, present))
    for column in needed:
        if column not in names:
            raise DataError(f"{place} has no column '{column}'; its columns are {', '.join(names)}")


def check_manifest(file: Path) -> None:
    """Compares the file with its SHA-256 in a `manifest.json` beside it (`files: {name: {sha256}}`), if any.

    Raises:
        DataError: They differ, or the manifest is damaged.
    """
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


def matching_rows(table: TextRows, where: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """Indices of the rows that satisfy every condition, int64, ascending; rows that cannot be read are kept.

    Args:
        table: The rows.
        where: Column -> allowed values, compared with `as_text` of the cell.

    Raises:
        DataError: The table lacks a column.
    """
    return np.flatnonzero(_matches(table, where)).astype(np.int64)


def _matches(table: TextRows, where: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
    """Whether each row satisfies every condition, bool (N,)."""
    for column in where:
        if column not in table.column_names:
            raise DataError(f"`where` names a column '{column}' that is not in the table: {table.column_names}")
    if not where:
        return np.ones(len(table), dtype=bool)
    allowed = {column: frozenset(values) for column, values in where.items()}
    rows = read_rows(table, list(where), range(len(table)))
    return np.fromiter((not row or satisfies(row, allowed) for row in rows), dtype=bool, count=len(table))


def satisfies(row: Mapping[str, Any], where: Mapping[str, Collection[str]]) -> bool:
    """Whether a row's cells, as text, are among the allowed ones of every condition."""
    return all(as_text(row.get(column)) in allowed for column, allowed in where.items())


def read_rows(table: TextRows, columns: Sequence[str], rows: NDArray[np.int64] | range) -> Iterator[Mapping[str, Any]]:
    """These columns of these rows, in their order; an empty mapping for a row that cannot be read.

    Text that is not UTF-8 makes a row unreadable; it is counted as a fault when the row is loaded.
    """
    cells = table.select_columns(list(columns))
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        block = np.asarray(rows[start : start + _ROWS_AT_A_TIME])
        try:
            found = cells[block]
        except (ValueError, OverflowError):  # UnicodeDecodeError, or dates before the year 1
            for number in block:
                try:
                    yield cells[int(number)]
                except (ValueError, OverflowError):
                    yield {}
            continue
        for values in zip(*(found[column] for column in columns), strict=True):
            yield dict(zip(columns, values, strict=True))


def identities(table: datasets.Dataset, column: str, rows: NDArray[np.int64], owner: str) -> list[str]:
    """The cells of a column in these rows as text; `owner` is the subject of the error message.

    Raises:
        DataError: A cell is null.
    """
    values = table.select_columns([column]).select(rows)[column]
    for row, value in zip(rows, values, strict=True):
        if value is None:
            raise DataError(f"{owner}: row {row} has nothing in the column '{column}'; fill it, or leave the row out")
    return [as_text(value) for value in values]


def as_text(value: object) -> str:
    """A cell as configurations spell it: `true`/`false` for booleans, `str` otherwise."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def columns_of(config: SourceConfig) -> list[str]:
    """The columns that a table must have."""
    # The default key column is optional: without it, rows are identified by number.
    key = [config.key] if config.key != SourceConfig.__dataclass_fields__["key"].default else []
    return list(dict.fromkeys([config.image, *text_fields(config), *config.where, *config.attributes, *key]))


class TableSource:
    """Random access to the pairs of a table: one pair per row and language, or per row.

    With L languages in `captions`, pair `index` is row `index // L` in the language `index % L`.

    Args:
        name: The source's key in the configuration.
        config: Its settings.
        table: The rows, images left encoded.
        folder_of: Row number -> the folder that image paths are relative to; `None`: the working directory.
        version: The fingerprint of a dataset that has no local files, empty otherwise.
    """

    def __init__(
        self,
        name: str,
        config: SourceConfig,
        table: TextRows,
        folder_of: Callable[[int], Path] | None = None,
        version: str = "",
    ) -> None:
        self.name, self.config, self.table, self.version = name, config, table, version
        require_columns(name, config, table.column_names)
        _require_texts(name, config, table.schema if isinstance(table, ParquetTable) else table.features.arrow_schema)
        self._folder_of = folder_of
        self._pairs = pairs_per_row(config)
        with self._all_texts():
            self.rows: Rows = _rows_with(table, config.where)
            if not len(self.rows):
                raise DataError(f"source '{name}' has no row with {config.where}; loosen its `where`")
            self._captioned = CaptionedPairs(f"source '{name}'", config, table, self.rows)
        self._language_rows = LanguageRows(config, len(self), self._marks)

    @contextlib.contextmanager
    def _all_texts(self) -> Iterator[None]:
        """For reading all texts, of which none may be left out: a fault is an error."""
        try:
            yield
        except SampleFault as fault:
            remedy = "run the command again when it can be reached" if fault.kind == "read_failed" else RESTORE
            raise DataError(f"source '{self.name}': {fault.detail}; {remedy}") from fault

    def __len__(self) -> int:
        return len(self.rows) * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        return single_record(self.records([index]))

    def records(self, indices: Sequence[int]) -> list[PairRecord | SampleFault]:
        numbers = self.rows.take(np.array(indices, dtype=np.int64) // self._pairs)
        try:
            cells = self.table[numbers]
        except Exception:  # a text that is not UTF-8, for one: reading row by row tells whose it is
            return records_one_by_one(lambda index: self._record(index, None), indices)
        rows = (dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True))
        by_index = dict(zip(indices, rows, strict=True))
        return records_one_by_one(lambda index: self._record(index, by_index[index]), indices)

    @property
    def reads_ahead(self) -> bool:
        """Whether the rows are in a store."""
        return isinstance(self.table, ParquetTable) and self.table.runs is not None

    def prefetch(self, indices: Sequence[int]) -> None:
        if isinstance(self.table, ParquetTable):
            self.table.prefetch(self.rows.take(np.unique(np.array(indices, dtype=np.int64) // self._pairs)))

    @property
    def nbytes(self) -> int:
        """Memory of what grows with the rows, in bytes; rows of `datasets` are mapped, not in memory."""
        rows = self.rows.nbytes if isinstance(self.rows, Marked) else 0
        return rows + self._captioned.nbytes + (self.table.files.nbytes if isinstance(self.table, ParquetTable) else 0)

    def _record(self, index: int, row: Mapping[str, Any] | None) -> PairRecord:
        """The pair at an index; `row` `None`: its row is read here."""
        position, pair = divmod(index, self._pairs)
        number = int(self.rows.take(np.array([position]))[0])
        with sample_errors(str(number)):
            found = self.table[number] if row is None else row
            return row_record(self.config, found, number=number, pair=pair, folder=self.folder_of(number))

    def folder_of(self, number: int) -> Path:
        """The folder that the image path in a row of the table is relative to."""
        if self.config.image_root is not None:
            return resolve_path(self.config.image_root)
        return self._folder_of(number) if self._folder_of else Path()

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language; reads every caption once if the settings do not give it."""
        if language in self.config.captions:
            return self._captioned.of(languages_of(self.config).index(language))
        if self.config.caption_fields and self.config.language == language:
            return self._captioned.of()
        return self._language_rows.of(language)

    def pairs(self) -> Rows:
        """The indices of pairs with a caption; all, if the source has none."""
        return self._captioned.of()

    def notes(self) -> list[str]:
        """For the log: how many rows have no caption, by language."""
        return self._captioned.notes

    def sample_rows(self, count: int) -> NDArray[np.int64]:
        """The numbers of up to `count` evenly spaced rows, int64."""
        return self.rows.take(np.arange(0, len(self.rows), max(1, -(-len(self.rows) // count))))

    def texts(self, count: int) -> Iterator[Mapping[str, Any]]:
        """The text fields of up to `count` evenly spaced rows, without their images."""
        with self._all_texts():
            yield from read_rows(self.table, text_fields(self.config), self.sample_rows(count))

    def _marks(self, start: int, stop: int) -> NDArray[np.int8]:
        fields = [*self.config.caption_fields, *([self.config.language_field] if self.config.language_field else [])]
        with self._all_texts():
            rows = read_rows(self.table, list(dict.fromkeys(fields)), self.rows.take(np.arange(start, stop)))
            return np.fromiter((language_mark(self.config, row) for row in rows), dtype=np.int8, count=stop - start)

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        with self._all_texts():
            for start in range(0, len(self.rows), every * _ROWS_AT_A_TIME):
                stop = min(start + every * _ROWS_AT_A_TIME, len(self.rows))
                rows = self.rows.take(np.arange(start, stop, every))
                for row in read_rows(self.table, text_fields(self.config), rows):
                    yield from row_texts(self.config, row)

    def opening_faults(self) -> list[FaultReport]:
        """Empty: rows are checked when they are read."""
        return []


def _rows_with(table: TextRows, where: Mapping[str, Sequence[str]]) -> Rows:
    """The rows that satisfy every condition: in no memory without one, else in 0.27 bytes a row of the table."""
    return Marked.of(_matches(table, where)) if where else EveryNth(0, 1, len(table))


def require_columns(name: str, config: SourceConfig, present: Sequence[str]) -> None:
    """Raises DataError if a column is missing that the settings name."""
    check_columns(f"source '{name}'", present, columns_of(config))


def _require_texts(name: str, config: SourceConfig, schema: pa.Schema) -> None:
    """Refuses columns whose type cannot hold captions or keywords."""
    for column in (*config.captions.values(), *config.caption_fields, *config.keywords.values()):
        kind = schema.field(column).type
        require_text_type(f"source '{name}'", column, kind)
        if column in config.keywords.values() and config.keyword_separator is None and _is_text(kind):
            raise DataError(
                f"source '{name}': the keyword column '{column}' holds texts, not lists; name the separator of "
                "keywords in keyword_separator, for example ','"
            )


def require_text_type(owner: str, column: str, kind: pa.DataType) -> None:
    """Raises DataError, with `owner` as its subject, if a column of this type cannot hold texts or lists of texts."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    entry = kind.value_type if is_list else kind
    if pa.types.is_primitive(entry) or pa.types.is_nested(entry) or pa.types.is_decimal(entry):
        raise DataError(
            f"{owner}: column '{column}' holds {kind}, and captions and keywords are texts or lists of texts; name "
            "another column"
        )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def row_record(
    config: SourceConfig, row: Mapping[str, Any], *, number: int, pair: int, folder: Path = Path()
) -> PairRecord:
    """The record of a row whose image is bytes, a struct with `bytes` or `path`, or a path.

    Args:
        config: The source's.
        row: Column -> cell.
        number: Row number in the source, the key of a row whose key is null or empty.
        pair: Number of the pair in the row.
        folder: Folder that image paths are relative to.

    Raises:
        SampleFault: The row has no usable image, caption or language; carries the key.
    """
    with sample_errors(str(number)):
        cell = row.get(config.key)
        key = ("" if cell is None else encodable(str(cell))) or str(number)
    with sample_errors(key):
        image, file_name = row_image(config, row, folder)
        texts = {config.image, *config.captions.values(), *config.caption_fields, *config.keywords.values()}
        attributes = [(column, as_text(value)) for column, value in row.items() if column not in texts]
        return make_record(config, key=key, image=image, row=row, pair=pair, file_name=file_name, attributes=attributes)


def row_image(config: SourceConfig, row: Mapping[str, Any], folder: Path) -> tuple[bytes, str]:
    """The encoded image of a row and its file name, by the source's settings.

    Raises:
        SampleFault: There is no image, or its file cannot be read.
    """
    allowed = config.allow_absolute_paths
    return image_bytes(
        row.get(config.image), folder, allows_absolute=allowed, allows_leaving=allowed, remedy=_ALLOW_PATHS
    )


def image_bytes(
    cell: object, folder: Path, *, allows_absolute: bool = False, allows_leaving: bool = False, remedy: str = ""
) -> tuple[bytes, str]:
    """The encoded image of a cell and its file name, empty if it has none.

    Args:
        cell: Bytes, a struct with `bytes` or `path`, or a path.
        folder: Folder that image paths are relative to.
        allows_absolute: Whether a path may be absolute, as in datasets that `datasets` made from a folder of images.
        allows_leaving: Whether a path may leave the folder by `..`.
        remedy: What to do about a path that is not allowed, for the message.

    Raises:
        SampleFault: There is no image, or its file cannot be read.
    """
    if isinstance(cell, Mapping):
        if (content := cell.get("bytes")) is not None and content != b"":
            return _checked_bytes(content), str(cell.get("path") or "")
        cell = cell.get("path")
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise SampleFault("image_missing", "the row has no image")
    if not isinstance(cell, str):
        return _checked_bytes(cell), ""
    path = PurePath(cell)
    if (path.is_absolute() and not allows_absolute) or (".." in path.parts and not allows_leaving):
        raise SampleFault("unsafe_name", f"{cell!r} is absolute or leaves {folder}{remedy}")
    try:
        return (folder / path).read_bytes(), path.name
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise SampleFault("image_missing", f"{folder / path}: {error}") from error
    except OSError as error:
        raise SampleFault("read_failed", f"{folder / path}: {error}") from error


def _checked_bytes(cell: object) -> bytes:
    if not isinstance(cell, bytes):
        raise SampleFault("image_undecodable", f"the image is {type(cell).__name__}, neither bytes nor a path")
    return cell
