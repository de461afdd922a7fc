"""Files that one process writes and others read: whole or not at all."""

import os
import time
from pathlib import Path

from kelip_lightning.errors import RunFolderError

WAIT_LIMIT_SECONDS = 4 * 3600.0
"""How long a process waits for a file of the first one, which may train a large tokenizer first."""
_PAUSE_SECONDS = 0.2


def write_whole(path: Path, text: str) -> None:
    """Write a text as UTF-8 under another name, sync it to disk, and rename it as the last act."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def wait_for(path: Path, limit_seconds: float = WAIT_LIMIT_SECONDS) -> None:
    """Return as soon as the file is there, which another process writes.

    Raises:
        RunFolderError: It has not come in time.
    """
    deadline = time.monotonic() + limit_seconds
    while not path.is_file():
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"the first process has not written {path} within {limit_seconds:g} s; all processes must see one "
                "file system"
            )
        time.sleep(_PAUSE_SECONDS)
