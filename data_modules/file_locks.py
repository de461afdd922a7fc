"""Locks between processes, which the system releases if one dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file, which is made, and removed at the end.

    Raises:
        OSError: The file cannot be written, or its file system has no locks.
    """
    while True:
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_in_place(lock.fileno(), path):
                continue  # its last holder has removed it, and others may hold the lock of a new file
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_in_place(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
