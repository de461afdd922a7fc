"""From the paths of a configuration to files on disk."""

import glob
from collections.abc import Sequence
from pathlib import Path

from data_modules.errors import DataError

PACKAGE_PREFIX = "package:"
"""Paths that start with this are relative to the installed `data_modules` folder."""


def resolve_path(path: str) -> Path:
    """The file or folder that a configured path names; `package:` means the installed `data_modules` folder."""
    if path.startswith(PACKAGE_PREFIX):
        return Path(__file__).resolve().parent.parent / path.removeprefix(PACKAGE_PREFIX)
    return Path(path).expanduser()


def resolve_files(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns name, in the patterns' order, each pattern's matches sorted.

    Raises:
        DataError: A pattern matches no file.
    """
    files: list[Path] = []
    for pattern in patterns:
        path = resolve_path(pattern)
        matches = [str(path)] if path.exists() else sorted(glob.glob(str(path)))
        if not matches:
            raise DataError(f"{_missing(pattern)}")
        files.extend(Path(match) for match in matches)
    return files


def _missing(pattern: str) -> str:
    sentence = f"no file matches '{pattern}'; check the path in the experiment's `files`"
    if pattern.startswith(PACKAGE_PREFIX + "emoji/"):
        return f"{sentence}, or restore the embedded corpus with `git checkout -- data_modules/emoji`"
    return sentence
