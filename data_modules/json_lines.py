"""JSON Lines files that survive a process killed at any moment.

Only a line feed ends a line: text may hold U+2028, U+0085 and whatever else `str.splitlines` splits at. Bytes after
the last line feed are an unfinished record, which is ignored.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_modules.errors import DataError


def complete_lines(data: bytes) -> list[bytes]:
    """The lines of a file's content without their line feeds; an unfinished last one is left out."""
    return data.split(b"\n")[:-1]


def read_json_lines(file: Path) -> Iterator[Any]:
    """The values of all complete lines, oldest first.

    Raises:
        OSError: The file cannot be read.
        DataError: A complete line is not JSON; raised after the values before it.
    """
    for number, line in enumerate(complete_lines(file.read_bytes()), start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file} is damaged: line {number} is no JSON ({error}); fix or remove the line") from error
        yield value


def append_json_lines(file: Path, values: Iterable[Any]) -> None:
    """Appends a line for each value, replacing an unfinished last one; creates the file and its folder.

    Raises:
        ValueError: A number is not finite, which JSON cannot represent.
    """
    data = _encoded(values)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        if stream.tell() and (stream.seek(-1, 2), stream.read(1))[1] != b"\n":
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(data)


def replace_json_lines(file: Path, values: Iterable[Any]) -> None:
    """Atomically replaces a file by one with a line for each value.

    Raises:
        ValueError: A number is not finite, which JSON cannot represent.
    """
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(_encoded(values))
    os.replace(partial, file)


def _encoded(values: Iterable[Any]) -> bytes:
    text = "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)
    # A lone surrogate, which UTF-8 cannot represent, becomes its JSON escape.
    return text.encode("utf-8", errors="backslashreplace")
