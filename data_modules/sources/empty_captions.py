"""Which rows of a table have no caption, found in Arrow's memory without making Python texts of the others."""

from collections.abc import Iterator

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.sources.config import SourceConfig
from data_modules.sources.languages import Marked
from data_modules.sources.parquet.table import ParquetTable
from data_modules.sources.rows import EveryNth, Rows, languages_of, pairs_per_row

_ROWS_AT_A_TIME = 1 << 16
_BLANK = r"^[\pZ\s\x00]*$"
"""White space and null characters, as `clean_caption` strips them."""
LANGUAGE_NAMES = {"ko": "Korean", "en": "English"}


class CaptionedPairs:
    """The pairs of a table that have a caption.

    Args:
        owner: Subject of messages.
        config: The source's.
        table: All rows.
        rows: The rows of the source.

    Raises:
        DataError: A caption column is empty in all of them.
    """

    def __init__(self, owner: str, config: SourceConfig, table: ParquetTable | datasets.Dataset, rows: Rows) -> None:
        fields = [*config.captions.values(), *config.caption_fields]
        is_whole = len(rows) == len(table)
        own = slice(None) if is_whole else rows.take(np.arange(len(rows)))
        blank = {field: blank_cells(table, field)[own] for field in dict.fromkeys(fields)}
        for field, cells in blank.items():
            if cells.all():
                setting = "captions" if config.captions else "caption_fields"
                raise DataError(
                    f"{owner}: the caption column '{field}' is empty in all {len(rows):,} rows; remove it from "
                    f"{setting}, or fill it"
                )
        self._pairs, self._length = pairs_per_row(config), len(rows) * pairs_per_row(config)
        if config.captions:
            columns = [~blank[config.captions[language]] for language in languages_of(config)]
        else:
            columns = [~np.logical_and.reduce([*blank.values()])] if fields else []
        names = [f"{LANGUAGE_NAMES[language]} " for language in languages_of(config)] or [""]
        self.notes = [
            f"{owner}: {np.count_nonzero(~column):,} of {len(rows):,} rows have no {name}caption and are no {name}pairs"
            for name, column in zip(names, columns, strict=False)
            if not column.all()
        ]
        """For the log: one sentence per language in which a row has no caption."""
        self._present = np.packbits(np.stack(columns, axis=1)) if self.notes else None

    @property
    def nbytes(self) -> int:
        """Memory, in bytes: a bit for each pair if some have no caption."""
        return 0 if self._present is None else self._present.nbytes

    def of(self, pair: int | None = None) -> Rows:
        """The indices of pairs with a caption, of all or of this pair of each row."""
        if self._present is None:
            stride = 1 if pair is None else self._pairs
            return EveryNth(pair or 0, stride, self._length // stride)
        present = np.unpackbits(self._present, count=self._length).astype(bool)
        if pair is not None:
            present &= np.arange(self._length) % self._pairs == pair
        return Marked.of(present)


def blank_cells(table: ParquetTable | datasets.Dataset, column: str) -> NDArray[np.bool_]:
    """Whether each cell of a column has no text, bool (N,): null, white space, or a list of such."""
    blocks = [_blank(block) for block in _blocks(table, column)]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=bool)


def _blocks(table: ParquetTable | datasets.Dataset, column: str) -> Iterator[pa.Array]:
    """The cells of a column, in order."""
    if isinstance(table, ParquetTable):
        yield from table.blocks(column)
        return
    cells = table.select_columns([column]).with_format("arrow")
    for start in range(0, len(table), _ROWS_AT_A_TIME):
        yield from cells[start : start + _ROWS_AT_A_TIME].column(0).chunks


def _blank(cells: pa.Array) -> NDArray[np.bool_]:
    kind = cells.type
    if pa.types.is_null(kind):
        return np.ones(len(cells), dtype=bool)
    if pa.types.is_dictionary(kind):
        return _blank(cells.cast(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        owners = pc.list_parent_indices(cells).to_numpy(zero_copy_only=False)
        full = np.bincount(owners[~_blank(cells.flatten())], minlength=len(cells)) > 0
        return ~full
    if _is_text(kind):
        return np.asarray(pc.fill_null(pc.match_substring_regex(cells, _BLANK), True))
    return np.asarray(cells.is_null())


def _is_text(kind: pa.DataType) -> bool:
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(texts or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
