"""Which folder a relative path of an experiment is relative to, and making all of them absolute.

A path in a YAML file is relative to the folder of this file, also where another file extends it; one on the command
line, and of every run folder, to the working directory. Below an `evaluation.data_folder`, paths are relative to it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from data_modules.config_roles import PathBase, path_base
from data_modules.paths import PACKAGE_PREFIX, is_url, matches
from data_modules.sources.config import TABLE_ENDINGS
from kelip_lightning.config.schema import (
    MANDATORY,
    join,
    section_below,
    section_of_list,
    section_of_mapping,
    without_none,
)

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_DATA_FOLDER = "data_folder"


class FileText(str):
    """A text of a YAML file, with the folder of this file."""

    folder: Path


def located(value: Any, folder: Path) -> Any:
    """A tree with every text as `FileText`."""
    if isinstance(value, dict):
        return {key: located(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [located(one, folder) for one in value]
    if not isinstance(value, str):
        return value
    text = FileText(value)
    text.folder = folder
    return text


def plain(value: Any) -> Any:
    """A tree with every `FileText` as `str`."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, FileText) else value


def with_absolute_paths(kind: type, tree: Any, problems: list[str], prefix: str = "", inside: bool = False) -> Any:
    """The tree of a section class with absolute paths, and otherwise plain texts.

    `package:` paths, URLs, paths that start with `~` and names of datasets on the Hub stay as they are.

    Args:
        kind: The section class.
        tree: Of files (`located`) and overrides.
        problems: One sentence per ambiguous path is appended.
        prefix: Dotted key of the section.
        inside: Whether paths are relative to a data folder.
    """
    if not isinstance(tree, Mapping):
        return plain(tree)
    hints, found = get_type_hints(kind), {}
    bases = {field.name: path_base(field) for field in fields(kind)}
    inside = inside or (_DATA_FOLDER in bases and tree.get(_DATA_FOLDER) not in (None, MANDATORY))
    may_be_name = str(tree.get("layout", tree.get("format", "auto"))) in ("auto", "dataset")
    for key, value in tree.items():
        at, (inner, _) = join(prefix, str(key)), without_none(hints.get(str(key)))
        below, base = section_below(inner), bases.get(str(key))
        if base is not None and (key == _DATA_FOLDER or not inside):
            found[key] = _absolute(value, base, at, may_be_name and key == "files", problems)
        elif below is None:
            found[key] = plain(value)
        elif section_of_mapping(inner) and isinstance(value, Mapping):
            found[key] = {
                name: with_absolute_paths(below, one, problems, join(at, str(name)), inside)
                for name, one in value.items()
            }
        elif section_of_list(inner) and isinstance(value, list):
            found[key] = [with_absolute_paths(below, one, problems, at, inside) for one in value]
        else:
            found[key] = with_absolute_paths(below, value, problems, at, inside)
    return found


def _absolute(value: Any, base: PathBase, at: str, may_be_name: bool, problems: list[str]) -> Any:
    if isinstance(value, list):
        return [_absolute(one, base, at, may_be_name, problems) for one in value]
    is_fixed = not isinstance(value, str) or value == MANDATORY or value.startswith((PACKAGE_PREFIX, "~"))
    if is_fixed or not value or is_url(value) or os.path.isabs(value):
        return plain(value)
    folder = value.folder if isinstance(value, FileText) and base is PathBase.file else Path()
    path = Path(os.path.abspath(folder / value))
    is_name = may_be_name and not value.lower().endswith((".tar", *TABLE_ENDINGS)) and _HUB_NAME.fullmatch(value)
    if is_name and not path.exists():
        if (own := Path(value)).exists():
            problems.append(
                f"{at}: '{value}' is not in {path.parent} but in the working directory, and paths in a YAML file are "
                f"relative to the file; write {os.path.relpath(own, folder)}, or the absolute path"
            )
        return str(value)
    return str(path)


def adopt_moved(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Give a section the paths of another where the files of both have equal names and its own do not exist.

    Args:
        old: A section, which is changed.
        new: A section of the same class.
        prefix: Dotted key of the sections.

    Yields:
        `key: old -> new` for each.
    """
    for field in fields(old):
        at, before, after = join(prefix, field.name), getattr(old, field.name), getattr(new, field.name)
        if path_base(field) is not None:
            if before != after and _has_moved(before, after):
                setattr(old, field.name, after)
                yield f"{at}: {before} -> {after}"
        elif is_dataclass(before) and type(before) is type(after):
            yield from adopt_moved(before, after, at)
        elif isinstance(before, dict) and isinstance(after, dict):
            for name in (name for name in before if name in after and is_dataclass(before[name])):
                yield from adopt_moved(before[name], after[name], join(at, name))


def _has_moved(old: Any, new: Any) -> bool:
    before, after = ([one] if isinstance(one, str) else one for one in (old, new))
    if not before or not after or len(before) != len(after) or any(map(is_url, [*before, *after])):
        return False
    same_names = [Path(one).name for one in before] == [Path(one).name for one in after]
    return same_names and not any(map(matches, before)) and all(map(matches, after))
