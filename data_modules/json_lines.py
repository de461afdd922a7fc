"""Our own files of one JSON value a line, written while a process may be killed at any moment.

A line ends at a line feed and nowhere else: text may hold U+2028, U+0085 and whatever else `str.splitlines` splits at.
What stands behind the last line feed was being written when its process ended, and is no record.
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
        DataError: A complete line is no JSON; the values before it have been given by then.
    """
    for number, line in enumerate(complete_lines(file.read_bytes()), start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{file} is damaged: line {number} is no JSON ({error}); mend or remove the line"
            ) from error
        yield value


def append_json_lines(file: Path, values: Iterable[Any]) -> None:
    """Add a line for each value, in the place of an unfinished last one; makes the file and its folder.

    Raises:
        ValueError: A number is not finite, for which JSON has no word.
    """
    data = _encoded(values)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        if stream.tell() and (stream.seek(-1, 2), stream.read(1))[1] != b"\n":
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(data)


def replace_json_lines(file: Path, values: Iterable[Any]) -> None:
    """Write a file anew with a line for each value; until it is whole, the old one stands.

    Raises:
        ValueError: A number is not finite, for which JSON has no word.
    """
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(_encoded(values))
    os.replace(partial, file)


def _encoded(values: Iterable[Any]) -> bytes:
    text = "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)
    # Half of a surrogate pair, which has no UTF-8, becomes the very escape that JSON has for it.
    return text.encode("utf-8", errors="backslashreplace")
