"""From configured paths and patterns to files."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from data_modules.errors import DataError

PACKAGE_PREFIX = "package:"
"""Paths that start with this are relative to the installed `data_modules` folder."""


def resolve_path(path: str) -> Path:
    """The file or folder of a configured path, with `package:` and `~` expanded."""
    if path.startswith(PACKAGE_PREFIX):
        return Path(__file__).resolve().parent / path.removeprefix(PACKAGE_PREFIX)
    return Path(path).expanduser()


def in_folder(path: str, folder: str | None) -> str:
    """The path; a relative one is put below the folder, which may be a URL.

    `package:` paths, URLs, absolute paths and those that start with `~` stay as they are; so do all for `None`.
    """
    if folder is None or path.startswith((PACKAGE_PREFIX, "~")) or is_url(path) or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}" if is_url(folder) else str(resolve_path(folder) / path)


def resolve_files(patterns: Sequence[str]) -> list[Path]:
    """The local files that match, in the order of the patterns, the matches of each sorted.

    Raises:
        DataError: A pattern matches no file.
    """
    files: list[Path] = []
    for pattern in (one for given in patterns for one in expand_braces(given)):
        files += [Path(match) for match in _sorted_matches(pattern, matches(pattern))]
    return files


def matches(pattern: str) -> list[str]:
    """The local files and folders that match a pattern without braces."""
    path = resolve_path(pattern)
    return [str(path)] if path.exists() else glob.glob(str(path))


def elsewhere(path: str | Path) -> str:
    """What a message about a missing path adds if the working directory has it: how to write it; else nothing."""
    parts = Path(path).parts
    if not Path(path).is_absolute():
        return ""
    for number in range(1, len(parts)):
        own, folder = Path(*parts[number:]), Path(*parts[:number])
        if folder != Path.cwd() and matches(str(own)):
            return (
                f" (the working directory has {own}, and paths in a YAML file are relative to the file: write "
                f"{os.path.relpath(own, folder)} in {folder}, or the absolute path)"
            )
    return ""


def expand_braces(pattern: str) -> list[str]:
    """The patterns that a shell expands one with braces to: `{a,b}` and `{000..123}`."""
    brace = re.search(r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}", pattern)
    if brace is None:
        return [pattern]
    body = brace.group(1)
    if "," in body:
        choices = body.split(",")
    else:
        first, last = body.split("..")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    head, tail = pattern[: brace.start()], pattern[brace.end() :]
    return [expanded for choice in choices for expanded in expand_braces(head + choice + tail)]


def is_url(path: str) -> bool:
    """Whether a path is read through fsspec (`s3://...`)."""
    return "://" in path


def resolve_shards(patterns: Sequence[str]) -> list[str]:
    """The shards that match, as paths or URLs, in the order of the patterns, the matches of each sorted.

    Raises:
        DataError: A pattern matches nothing, or its filesystem cannot be reached.
    """
    shards: list[str] = []
    for pattern in (one for given in patterns for one in expand_braces(given)):
        if not is_url(pattern):
            shards += [str(path) for path in resolve_files([pattern])]
        elif not re.search(r"[*?\[]", pattern):
            shards.append(pattern)
        else:
            shards += _sorted_matches(pattern, _glob_url(pattern))
    return shards


def _glob_url(pattern: str) -> list[str]:
    import fsspec  # here, as checking an experiment's local files should not wait for it

    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        return [filesystem.unstrip_protocol(match) for match in filesystem.glob(path)]
    except Exception as error:  # every filesystem has its own errors
        raise DataError(f"'{pattern}' cannot be listed ({error}); check the address and the access rights") from error


def _sorted_matches(pattern: str, found: Sequence[str]) -> list[str]:
    if not found:
        is_corpus = pattern.startswith(PACKAGE_PREFIX + "emoji/")
        remedy = ", or restore the embedded corpus with `git checkout -- data_modules/emoji`" if is_corpus else ""
        hint = elsewhere(pattern)
        raise DataError(f"no file matches '{pattern}'{hint}; check the path in the experiment's `files`{remedy}")
    return sorted(found)
