"""Where the long values of a column are, on disk: 24 bytes a row, written as pages are looked at.

All processes of a machine share the file, and machines too if it is on a shared file system: what one has found out,
the others read. Rows are read where they are needed and not kept in memory. A row that nobody has looked at is zeros,
and so is one that a crash lost; a torn one does not fit its check byte. Either is found out again.
"""

import contextlib
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.sources.parquet.pages import BLOCK_SHIFT, PageRows

_log = logging.getLogger(__name__)

RECORD = np.dtype(
    [
        ("start", "<u8"),
        ("part", "<u4"),
        ("raw", "<u4"),
        ("length", "<u4"),
        ("skip", "<u2"),
        ("level", "u1"),
        ("check", "u1"),
    ]
)
"""First byte in the parquet file, and number, of the bytes that hold a value; their size when decompressed, 0 if they
are not compressed; size of the value and bytes before it in what is decompressed; definition level."""
ROW_BYTES = RECORD.itemsize
BY_PAGE = 255
"""Level of rows whose values can only be had with their page."""
_CHECKED = ROW_BYTES - 1

Records = NDArray[np.void]
"""`RECORD` (N,)."""


def page_records(rows: PageRows, num_rows: int, max_level: int) -> Records:
    """The records of a page, without check bytes."""
    found = np.zeros(num_rows, dtype=RECORD)
    places = rows.values
    numbers = np.arange(num_rows) if rows.indices is None else rows.indices.astype(np.int64)
    found["level"] = max_level if rows.levels is None else rows.levels
    full = np.flatnonzero(found["level"] == max_level)
    offsets = places.offsets.astype(np.int64)
    starts, ends = offsets[numbers[full]], offsets[numbers[full] + 1] - 4
    lengths = ends - starts
    own = found[full]
    own["length"] = lengths
    if places.blocks is None:
        own["start"], own["part"] = places.body + starts, lengths
    else:
        blocks = places.blocks.astype(np.int64)
        first, last = starts >> BLOCK_SHIFT, np.maximum(ends - 1, starts) >> BLOCK_SHIFT
        last = np.minimum(last, len(blocks) - 2)
        first = np.minimum(first, last)
        own["start"] = places.body + blocks[first]
        own["part"] = np.where(lengths > 0, blocks[last + 1] - blocks[first], 0)
        own["raw"] = np.minimum(places.raw_size, (last + 1) << BLOCK_SHIFT) - (first << BLOCK_SHIFT)
        own["skip"] = starts - (first << BLOCK_SHIFT) if len(full) else 0
    found[full] = own
    return found


def records_by_page(num_rows: int) -> Records:
    """The records of a page whose values cannot be had one by one."""
    found = np.zeros(num_rows, dtype=RECORD)
    found["level"] = BY_PAGE
    return found


class ValueIndex:
    """The records of a column of a table.

    Args:
        file: Made when the first record is written; the name changes with the content of the table. `None`: none is
            written.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._process, self._descriptor = -1, -1
        self._is_writable = file is not None

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["file"])  # type: ignore[misc]  # an object without state but this

    def _open(self) -> int:
        """The descriptor of this process; -1: there is no file."""
        if self.file is not None and (self._descriptor < 0 or self._process != os.getpid()):
            self._process, self._descriptor = os.getpid(), -1
            with contextlib.suppress(OSError):
                self._descriptor = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
                return self._descriptor
            with contextlib.suppress(OSError):  # others have built it
                self._descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def read(self, row: int) -> Any:
        """The record of a row; `None`: it is not known."""
        if (descriptor := self._open()) < 0:
            return None
        try:
            content = os.pread(descriptor, ROW_BYTES, row * ROW_BYTES)
        except OSError:
            return None
        if len(content) < ROW_BYTES or content[_CHECKED] == 0 or content[_CHECKED] != _check(content[:_CHECKED]):
            return None
        return np.frombuffer(content, dtype=RECORD)[0]

    def write(self, row: int, records: Records) -> bool:
        """Write the records of neighbouring rows, the first of which is `row`; false if that is not possible."""
        if not self._is_writable or self.file is None:
            return False
        packed = bytearray(records.tobytes())
        for at in range(0, len(packed), ROW_BYTES):
            packed[at + _CHECKED] = _check(packed[at : at + _CHECKED])
        try:
            if self._open() < 0:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.pwrite(self._descriptor, packed, row * ROW_BYTES)
        except OSError as error:
            self._is_writable = False
            _log.warning(
                "the index %s cannot be written (%s), so that every process finds the images of its parquet files "
                "again: set index_folder to a folder that can be written",
                self.file,
                error,
            )
        return self._is_writable


def _check(content: bytes | bytearray) -> int:
    """A byte that is not zero."""
    return 1 + zlib.crc32(content) % 255
