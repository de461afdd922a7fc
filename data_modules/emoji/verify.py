"""Checks that the shipped corpus is complete and undamaged.

Run ``python -m data_modules.emoji.verify``; nothing outside the standard library is needed.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_modules.emoji.corpus import (
    CORPUS_FOLDER,
    MANIFEST_NAME,
    MANIFEST_PATH_IN_REPOSITORY,
    file_digest,
)
from data_modules.errors import DataError


class CorpusError(DataError):
    """The corpus is incomplete or damaged."""


def _error(name: str, fault: str) -> CorpusError:
    """Builds the error that names the file, what is wrong with it and the remedy."""
    path = f"{MANIFEST_PATH_IN_REPOSITORY}/{name}"
    return CorpusError(
        f"The corpus file {name} {fault}: restore it with `git checkout -- {path}` or rebuild with `make emoji-corpus`."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a corpus.

    Args:
        folder: Folder that holds the corpus.

    Returns:
        The number of concepts and, under ``files``, an entry for each Parquet file.

    Raises:
        CorpusError: If the manifest is missing or unreadable.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _error(MANIFEST_NAME, "is missing") from error
    except ValueError as error:
        raise _error(MANIFEST_NAME, "is not valid JSON") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _error(MANIFEST_NAME, "lists no files")
    return manifest


def verify_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    """Compares one file with its entry in the manifest: size first, then SHA-256.

    Raises:
        CorpusError: If the file is missing or another one.
    """
    path = folder / name
    if not path.is_file():
        raise _error(name, "is missing")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise _error(name, f"has {size} bytes instead of {entry['bytes']}")
    if file_digest(path) != entry["sha256"]:
        raise _error(name, "is damaged (its SHA-256 is not the one in the manifest)")


def verify_corpus(folder: Path = CORPUS_FOLDER) -> None:
    """Checks every file of a corpus against its manifest.

    Args:
        folder: Folder that holds the corpus.

    Raises:
        CorpusError: If a file is missing or damaged; the message names it and the remedy.
    """
    for name, entry in read_manifest(folder)["files"].items():
        verify_file(folder, name, entry)


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description="Check the emoji corpus.")
    parser.add_argument("folder", type=Path, nargs="?", default=CORPUS_FOLDER)
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        verify_corpus(options.folder)
    except CorpusError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("The corpus is complete and undamaged.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
