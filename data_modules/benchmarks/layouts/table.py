"""The layouts `table` and `dataset`: rows of Arrow tables, memory-mapped."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.image_cells import CellImages
from data_modules.benchmarks.layouts.listed import cell_texts, column_keys
from data_modules.benchmarks.layouts.settings import default_of, identity_of, image_root, key_column, only_file
from data_modules.benchmarks.sample_table import RowIds
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.paths import in_folder, resolve_files, resolve_path
from data_modules.sources.config import TABLE_ENDINGS, SourceFormat, kind_of_file
from data_modules.sources.opening import is_saved, load_dataset_rows, open_table_files
from data_modules.sources.tables import check_columns, keep_encoded, require_text_type


class StoredSamples:
    """A `SampleTable` of a table or a Hugging Face dataset.

    Args:
        identity: See `SampleTable`.
        context: Subject of error messages.
        table: The rows, images left encoded.
        images: Its images; `None`: none are needed.
        key: Column that identifies a row; `None`: its number does.
    """

    def __init__(
        self,
        *,
        identity: str,
        context: str,
        table: datasets.Dataset,
        images: CellImages | None,
        key: str | None,
    ) -> None:
        self.identity, self.context, self.table = identity, context, table
        self.columns: Sequence[str] = list(table.column_names)
        self._key, self._images = key, images

    def __len__(self) -> int:
        return len(self.table)

    def cells(self, column: str, rows: RowIds) -> list[Any]:
        check_columns(self.context, self.columns, [column])
        cells = self.table.select_columns([column])
        try:
            return list(cells[np.asarray(rows, dtype=np.int64)][column]) if len(rows) else []
        except (ValueError, OverflowError):  # text that is not UTF-8, or dates before the year 1
            return [self._cell(cells, column, int(row)) for row in rows]

    def _cell(self, cells: datasets.Dataset, column: str, row: int) -> Any:
        try:
            return cells[row][column]
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{self.context}: row {row} cannot be read in the column '{column}' ({error}); correct or remove it"
            ) from error

    def keys(self, rows: RowIds) -> list[str]:
        if self._key is None:
            return [str(int(row)) for row in rows]
        return column_keys(self.cells(self._key, rows), self._key, rows, self.context)

    def image(self, row: int) -> bytes:
        if self._images is None:
            raise SampleFault("image_missing", "the set was opened without images", str(row))
        return self._images.read(int(row))

    def image_names(self, rows: RowIds) -> list[str]:
        if self._key is not None:
            return cell_texts(self.cells(self._key, rows), self._key, rows, self.context)
        return [path or f"row {row}" for path, row in zip(self.image_paths(rows), rows.tolist(), strict=True)]

    def image_paths(self, rows: RowIds) -> list[str | None]:
        return self._images.paths(rows) if self._images is not None else [None] * len(rows)

    def label_names(self, column: str) -> list[str] | None:
        feature = self.table.features[column]
        return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None

    def image_problems(self, rows: RowIds) -> Iterator[tuple[int, str]]:
        return self._images.problems(rows) if self._images is not None else iter(())


def open_table_samples(
    config: TableConfig, context: str, data_folder: str | None, image: str | None, needed: list[str]
) -> StoredSamples:
    """The rows of parquet, CSV, TSV or JSONL files.

    Raises:
        DataError: A file is missing, damaged or no table, or a column is missing or of a wrong type.
    """
    patterns = [in_folder(one, data_folder) for one in config.files]
    files = resolve_files(patterns)
    for file in files:
        if file.is_dir():
            raise DataError(f"{file} is a folder, and the layout table reads files; set layout to that of the folder")
        if kind_of_file(file.name) is SourceFormat.shards:
            raise DataError(f"{file} is a tar file, and the layout table reads tables; set layout = shards")
        if file.suffix not in TABLE_ENDINGS:
            raise DataError(f"{file} is no table: its ending must be one of {', '.join(TABLE_ENDINGS)}; rename it")
    root = image_root(config, data_folder)
    table, folder_of = open_table_files(
        context, patterns, image, needed, encoding=config.encoding, separator=config.separator
    )
    images, allowed = None, config.allow_absolute_paths
    if image is not None:
        table = keep_encoded(table, image)
        images = CellImages(
            table, image, root=root, folder_of=folder_of, allows_absolute=allowed, allows_leaving=allowed
        )
    key = _checked_types(config, table, image, ", ".join(map(str, files)))
    settings = {"image": config.image, "image_root": root, "allow_absolute_paths": allowed}
    settings |= {"encoding": config.encoding, "separator": config.separator}
    return StoredSamples(
        identity=identity_of(Layout.table, files, **settings),
        context=context,
        table=table,
        images=images,
        key=key,
    )


def open_dataset_samples(
    config: TableConfig, context: str, data_folder: str | None, image: str | None, needed: list[str]
) -> StoredSamples:
    """The rows of a Hugging Face dataset in a folder or on the Hub.

    Raises:
        DataError: It cannot be opened, or a column is missing or of a wrong type.
    """
    name = dataset_place(config, data_folder)
    place = resolve_path(name)
    _check_dataset(name, place, config)
    default = str(default_of("split"))
    loaded, _ = load_dataset_rows(
        f"the dataset {name}", name, split=config.split, subset=config.subset, default_split=default
    )
    owner = f"the split '{config.split}' of {name}"
    check_columns(owner, loaded.column_names, [*([image] if image is not None else []), *needed])
    root = image_root(config, data_folder)
    table = loaded if image is None else keep_encoded(loaded, image)
    settings = {"image": config.image, "image_root": root, "split": config.split, "subset": config.subset}
    found: Path | str = place if place.exists() else f"hub://{name}"
    return StoredSamples(
        identity=identity_of(Layout.dataset, [found], **settings),
        context=context,
        table=table,
        images=CellImages(table, image, root=root, allows_absolute=True) if image is not None else None,
        key=_checked_types(config, table, image, owner),
    )


def dataset_place(config: TableConfig, data_folder: str | None) -> str:
    """The folder of a dataset, below `data_folder` if it is there, or its name on the Hub."""
    name = only_file(config, "one dataset")
    local = resolve_path(in_folder(name, data_folder))
    return str(local.resolve()) if local.exists() else name


def _check_dataset(name: str, place: Path, config: TableConfig) -> None:
    """Refuses files of other layouts, which `datasets` would report in its own words."""
    kind = kind_of_file(name)
    if kind in (SourceFormat.shards, SourceFormat.table):
        what = "a tar file" if kind is SourceFormat.shards else "a table"
        raise DataError(f"{place} is {what}, and not a dataset; set layout = {kind.name}")
    if place.is_file():
        hint = "karpathy for Karpathy's JSON" if place.suffix == ".json" else "that of the file"
        raise DataError(
            f"{place} is a file, and the layout dataset reads folders and names on the Hub; set layout to {hint}"
        )
    for layout, sign in (("clip_benchmark", f"{config.split}/nshards.txt"), ("xtd10", "test_image_names.txt")):
        if (place / sign).is_file():
            raise DataError(f"{place} holds {sign}, and is no Hugging Face dataset; set layout = {layout}")
    if is_saved(place) and config.subset is not None:
        raise DataError(f"subset = {config.subset!r} has no effect: {place} was saved by save_to_disk; remove it")


def _checked_types(config: TableConfig, table: datasets.Dataset, image: str | None, owner: str) -> str | None:
    """The key column; raises DataError if a column cannot hold images, captions or keys."""
    schema = table.features.arrow_schema
    if image is not None and not _can_hold_images(schema.field(image).type):
        raise DataError(
            f"{owner}: column '{image}' holds {schema.field(image).type}, and images are bytes, paths, or structs with "
            "`bytes` or `path`; name another column as image"
        )
    for column in config.captions.values():
        require_text_type(owner, column, schema.field(column).type)
    key = key_column(config, table.column_names)
    if key is not None and (pa.types.is_nested(schema.field(key).type) or _is_bytes(schema.field(key).type)):
        raise DataError(
            f"{owner}: column '{key}' holds {schema.field(key).type}, and keys are texts or numbers; name another "
            "column as key"
        )
    return key


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _can_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool({"bytes", "path"} & {kind.field(number).name for number in range(kind.num_fields)})
    return _is_bytes(kind) or bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
