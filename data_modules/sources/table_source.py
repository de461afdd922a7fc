"""Pairs from tables and Hugging Face datasets, at random."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault, encodable, sample_errors
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.language_rows import LanguageRows
from data_modules.sources.rows import Rows, language_mark, make_record, pairs_per_row, row_texts
from data_modules.sources.tables import as_text, matching_rows, read_rows


def columns_of(config: SourceConfig) -> list[str]:
    """The columns that a table must have."""
    columns = [config.image, *config.captions.values(), *config.caption_fields, *config.keywords.values()]
    columns += [*config.where, *([config.language_field] if config.language_field else [])]
    # Without a key of their own, rows go by their number.
    columns += [config.key] if config.key != SourceConfig.__dataclass_fields__["key"].default else []
    return list(dict.fromkeys(columns))


class TableSource:
    """Random access to the pairs of a table: one pair per row and language, or per row.

    With L languages in `captions`, pair `index` is row `index // L` in the language `index % L`.

    Args:
        name: The source's key in the configuration.
        config: Its settings.
        table: The rows, images left encoded.
        folder_of: The folder to which image paths in a row are relative; none: to the working directory.
        version: The fingerprint of a dataset that has no files of its own here, empty otherwise.
    """

    def __init__(
        self,
        name: str,
        config: SourceConfig,
        table: datasets.Dataset,
        folder_of: Callable[[int], Path] | None = None,
        version: str = "",
    ) -> None:
        self.name, self.config, self.table, self.version = name, config, table, version
        require_columns(name, config, table.column_names)
        _require_texts(name, config, table.features.arrow_schema)
        self.rows = matching_rows(table, config.where)
        if not len(self.rows):
            raise DataError(f"source '{name}' has no row with {config.where}; loosen its `where`")
        self._folder_of = folder_of
        self._pairs = pairs_per_row(config)
        self._language_rows = LanguageRows(config, len(self), self._marks)

    def __len__(self) -> int:
        return len(self.rows) * self._pairs

    def __getitem__(self, index: int) -> PairRecord:
        position, pair = divmod(index, self._pairs)
        number = int(self.rows[position])
        folder = self._folder_of(number) if self._folder_of else Path()
        with sample_errors(str(number)):  # a text that is not UTF-8 shows when its row is read
            return row_record(self.config, self.table[number], number=number, pair=pair, folder=folder)

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language; reads every caption once where only they tell it."""
        return self._language_rows.of(language)

    def _marks(self, start: int, stop: int) -> NDArray[np.int8]:
        fields = [*self.config.caption_fields, *([self.config.language_field] if self.config.language_field else [])]
        rows = read_rows(self.table, list(dict.fromkeys(fields)), self.rows[start:stop])
        return np.fromiter((language_mark(self.config, row) for row in rows), dtype=np.int8, count=stop - start)

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """Every (language, text) of every n-th row, names and keywords alike, in row order, images unread."""
        fields = [*self.config.captions.values(), *self.config.caption_fields, *self.config.keywords.values()]
        fields += [self.config.language_field] if self.config.language_field else []
        for row in read_rows(self.table, list(dict.fromkeys(fields)), self.rows[::every]):
            yield from row_texts(self.config, row)

    def opening_faults(self) -> list[FaultReport]:
        """None: rows are looked at when they are read."""
        return []


def require_columns(name: str, config: SourceConfig, present: Sequence[str]) -> None:
    """Raise DataError unless all columns are there that the settings name."""
    for column in columns_of(config):
        if column not in present:
            raise DataError(
                f"source '{name}' has no column '{column}'; its columns are {', '.join(sorted(map(str, present)))}"
            )


def _require_texts(name: str, config: SourceConfig, schema: pa.Schema) -> None:
    """What the types of columns tell at once need not be found sample by sample."""
    for column in (*config.captions.values(), *config.caption_fields, *config.keywords.values()):
        kind = schema.field(column).type
        entry = kind.value_type if _is_list(kind) else kind
        if pa.types.is_primitive(entry) or pa.types.is_nested(entry) or pa.types.is_decimal(entry):
            raise DataError(
                f"source '{name}': column '{column}' holds {kind}, and captions and keywords are texts or lists of "
                "texts; name another column"
            )
    for column in config.keywords.values():
        kind = schema.field(column).type
        if config.keyword_separator is None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"source '{name}': the keyword column '{column}' holds texts, not lists; say what stands between the "
                "keywords of a text as keyword_separator, for example ','"
            )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def row_record(
    config: SourceConfig, row: Mapping[str, Any], *, number: int, pair: int, folder: Path = Path()
) -> PairRecord:
    """The record of a row whose image is bytes, a struct with `bytes` or `path`, or a path.

    Args:
        config: The source's.
        row: Its columns.
        number: Which row of the source it is; identifies it where it has no key.
        pair: Which of the row's pairs.
        folder: Where image paths start.

    Raises:
        SampleFault: The row has no usable image, caption or language; carries the key.
    """
    with sample_errors(str(number)):
        key = encodable(str(row[config.key])) if row.get(config.key) is not None else str(number)
    with sample_errors(key):
        image, file_name = _image_bytes(row.get(config.image), folder)
        texts = {config.image, *config.captions.values(), *config.caption_fields, *config.keywords.values()}
        attributes = [(column, as_text(value)) for column, value in row.items() if column not in texts]
        return make_record(config, key=key, image=image, row=row, pair=pair, file_name=file_name, attributes=attributes)


def _image_bytes(cell: object, folder: Path) -> tuple[bytes, str]:
    if isinstance(cell, Mapping):
        if (content := cell.get("bytes")) is not None and content != b"":
            return _checked_bytes(content), str(cell.get("path") or "")
        cell = cell.get("path")
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise SampleFault("image_missing", "the row has no image")
    if not isinstance(cell, str):
        return _checked_bytes(cell), ""
    path = PurePath(cell)
    if path.is_absolute() or ".." in path.parts:
        raise SampleFault("unsafe_name", f"{cell!r} is absolute or climbs out of the table's folder")
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
