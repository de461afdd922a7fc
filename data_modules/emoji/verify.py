"""Layout of the shipped corpus, and a check that it is complete and undamaged.

Run `python -m data_modules.emoji.verify`; it needs only the standard library.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_modules.errors import DataError

CORPUS_FOLDER = Path(__file__).parent
MANIFEST_NAME = "manifest.json"
PATH_IN_REPOSITORY = "data_modules/emoji"

COLUMNS = (
    *("key", "image", "concept", "emoji", "code_points", "design", "group", "subgroup"),
    *("name_ko", "name_en", "keywords_ko", "keywords_en", "skin_tone", "family", "split"),
)
LIST_COLUMNS = ("keywords_ko", "keywords_en")
STRING_COLUMNS = tuple(name for name in COLUMNS if name not in (*LIST_COLUMNS, "image", "skin_tone"))


class CorpusError(DataError):
    """The corpus is incomplete or damaged."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _error(name: str, fault: str) -> CorpusError:
    path = f"{PATH_IN_REPOSITORY}/{name}"
    return CorpusError(
        f"The corpus file {name} {fault}: restore it with `git checkout -- {path}` or rebuild with `make emoji-corpus`."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a corpus: the number of concepts and, under `files`, an entry for each Parquet file.

    Raises:
        CorpusError: The manifest is missing or unreadable.
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
    """Compare the size and then the SHA-256 of a file with its entry in the manifest.

    Raises:
        CorpusError: The file is missing or differs.
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
    """Check every file of a corpus against its manifest.

    Raises:
        CorpusError: A file is missing or damaged; the message names it and the remedy.
    """
    for name, entry in read_manifest(folder)["files"].items():
        verify_file(folder, name, entry)


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
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
