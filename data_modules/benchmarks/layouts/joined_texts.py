"""Captions in files of their own, joined to samples by key."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_modules.benchmarks.config import TextTableConfig
from data_modules.errors import DataError
from data_modules.paths import in_folder, resolve_files
from data_modules.sources.config import TABLE_ENDINGS
from data_modules.sources.tables import as_text, check_columns, open_paths_table, require_text_type

_ENDINGS = (*TABLE_ENDINGS, ".json")
_ROWS_AT_A_TIME = 10_000
_MAX_PRINTED = 80


def joined_captions(
    config: TextTableConfig, keys: Sequence[str], context: str, data_folder: str | None = None
) -> list[list[str]]:
    """The captions of each key.

    A key of the samples equals one of the files, or, where either of them is a path, they have the same file name.

    Args:
        config: Files, and their columns of keys and captions.
        keys: Keys of the samples.
        context: Subject of error messages.
        data_folder: Folder that relative files are in; `None`: the working directory.

    Returns:
        For each key its captions; empty if the files have none for it.

    Raises:
        DataError: A file or column is missing or malformed, a key has different captions in two rows, or no key of the
            samples is in the files.
    """
    try:
        return _join(config, keys, data_folder)
    except DataError as error:
        raise DataError(f"{context}: {error}") from error


def _join(config: TextTableConfig, keys: Sequence[str], data_folder: str | None) -> list[list[str]]:
    files = caption_files(config, data_folder)
    by_key: dict[str, tuple[list[str], str]] = {}
    for file in files:
        for row, (key, captions) in enumerate(_rows(file, config)):
            place = f"{file}, row {row}"
            found, first = by_key.setdefault(key, (captions, place))
            if found != captions:
                raise DataError(
                    f"the key '{key}' has different captions in {first} and {place}; write one row per key, its "
                    f"'{config.captions}' a list of all captions"
                )
    by_name: dict[str, list[str]] = {}
    for key in by_key:
        by_name.setdefault(_name(key), []).append(key)
    joined = [_captions_of(key, by_key, by_name) for key in keys]
    if keys and all(one is None for one in joined):
        example = next(iter(by_key), "none")
        raise DataError(
            f"no key of the {len(keys)} samples is in {', '.join(map(str, files))}: the samples have keys such as "
            f"'{keys[0][:_MAX_PRINTED]}', the column '{config.key}' such as '{example[:_MAX_PRINTED]}'; correct one of "
            "the two `key` settings"
        )
    return [one or [] for one in joined]


def caption_files(config: TextTableConfig, data_folder: str | None) -> list[Path]:
    """The files that match.

    Raises:
        DataError: A pattern matches nothing, or a file has another ending.
    """
    files = resolve_files([in_folder(one, data_folder) for one in config.files])
    for file in files:
        if file.suffix not in _ENDINGS or file.is_dir():
            raise DataError(f"{file} holds no captions: its ending must be one of {', '.join(_ENDINGS)}; convert it")
    return files


def _name(key: str) -> str:
    return PurePosixPath(key.replace("\\", "/")).name


def _captions_of(key: str, by_key: dict[str, tuple[list[str], str]], by_name: dict[str, list[str]]) -> list[str] | None:
    """The captions of a sample's key; `None` if it is not in the files."""
    if key in by_key:
        return by_key[key][0]
    others = by_name.get(_name(key), [])
    distinct = {tuple(by_key[other][0]) for other in others}
    if len(distinct) > 1:
        first, second, *_ = others
        raise DataError(
            f"the file name of '{key}' is that of the keys '{first}' and '{second}', whose captions differ; use the "
            "same paths in both"
        )
    return by_key[others[0]][0] if others else None


def _rows(file: Path, config: TextTableConfig) -> Iterator[tuple[str, list[str]]]:
    columns = [config.key, config.captions]
    if file.suffix == ".json":
        cells: Iterator[tuple[Any, Any]] = ((one[config.key], one[config.captions]) for one in _objects(file, columns))
    else:
        cells = _table_cells(file, config)
    for row, (key, value) in enumerate(cells):
        if key is None or isinstance(key, list | dict) or as_text(key) == "":
            raise DataError(f"{file}, row {row}: the key column '{config.key}' holds {key!r}; fill it with a text")
        captions = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
            raise DataError(
                f"{file}, row {row}: the column '{config.captions}' holds {str(value)[:_MAX_PRINTED]}, and captions "
                "are a text or a list of texts; correct it, or name another column"
            )
        yield as_text(key), captions


def _table_cells(file: Path, config: TextTableConfig) -> Iterator[tuple[Any, Any]]:
    table = open_paths_table(file, config.encoding, config.separator)
    check_columns(file, table.column_names, [config.key, config.captions])
    require_text_type(str(file), config.captions, table.features.arrow_schema.field(config.captions).type)
    table = table.select_columns(list(dict.fromkeys([config.key, config.captions])))
    try:
        for start in range(0, len(table), _ROWS_AT_A_TIME):
            block = table[start : start + _ROWS_AT_A_TIME]
            yield from zip(block[config.key], block[config.captions], strict=True)
    except (ValueError, OverflowError) as error:  # text that is not UTF-8
        raise DataError(f"{file} has a row that cannot be read ({error}); correct or remove it") from error


def _objects(file: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        loaded = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON ({error}); restore it") from error
    if not isinstance(loaded, list):
        raise DataError(f"{file} holds a {type(loaded).__name__}, and must hold a list of objects; convert it")
    for row, one in enumerate(loaded):
        if not isinstance(one, dict):
            raise DataError(f"{file}, row {row}: a {type(one).__name__}, and each row is an object; correct it")
        check_columns(f"{file}, row {row},", one, columns)
        yield one
