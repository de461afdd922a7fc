"""Captions from text files, one a line, read as a stream."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_modules.errors import DataError


def read_caption_lines(files: Iterable[Path]) -> Iterator[str]:
    """The lines of UTF-8 text files (`.gz`: compressed) one after the other, empty ones left out.

    Raises:
        DataError: A file is missing, or is not UTF-8 text.
    """
    for file in files:
        if not file.is_file():
            raise DataError(f"caption file {file} does not exist; give text files with one caption a line")
        try:
            with (
                gzip.open(file, "rt", encoding="utf-8")
                if file.suffix == ".gz"
                else file.open(encoding="utf-8") as lines
            ):
                yield from (line.strip() for line in lines if line.strip())
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"caption file {file} is not UTF-8 text ({error}); convert it first") from error
