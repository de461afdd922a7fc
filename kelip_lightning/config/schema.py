"""What section classes say about themselves, and walks over sections."""

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

PLAIN_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def without_none(hint: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether it had one."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    inner = [one for one in get_args(hint) if one is not types.NoneType]
    return inner[0], True


def section_of_mapping(hint: Any) -> type | None:
    """The section class of a `dict[str, Section]`, else None."""
    arguments = get_args(hint)
    found = arguments[1] if get_origin(hint) is dict and is_dataclass(arguments[1]) else None
    return found if isinstance(found, type) else None


def describe(hint: Any) -> str:
    """A type in words."""
    inner, optional = without_none(hint)
    if optional:
        return f"{describe(inner)} or null"
    if isinstance(inner, type) and issubclass(inner, Enum):
        return f"one of {', '.join(inner.__members__)}"
    if get_origin(inner) is list:
        return f"a list [{describe(get_args(inner)[0])}, ...]"
    if get_origin(inner) is dict:
        value = get_args(inner)[1]
        return f"a mapping {{key: {'section' if is_dataclass(value) else describe(value)}, ...}}"
    return PLAIN_NAMES.get(inner, "a section")


def dotted_paths(kind: type) -> list[str]:
    """Every dotted key of a section class; entries of a mapping of sections as `*`."""
    paths: list[str] = []
    for name, hint in get_type_hints(kind).items():
        inner, _ = without_none(hint)
        paths.append(name)
        below = inner if is_dataclass(inner) else section_of_mapping(inner)
        if isinstance(below, type):
            middle = name if is_dataclass(inner) else f"{name}.*"
            paths.extend(f"{middle}.{path}" for path in dotted_paths(below))
    return paths


def has_key(kind: type, keys: list[str]) -> bool:
    """Whether a section class has this dotted key; mappings accept any name."""
    if not keys:
        return True
    hint = get_type_hints(kind).get(keys[0])
    if hint is None:
        return False
    inner, _ = without_none(hint)
    if isinstance(inner, type) and is_dataclass(inner):
        return has_key(inner, keys[1:])
    sections = section_of_mapping(inner)
    if sections:
        return has_key(sections, keys[2:])
    return len(keys) == 1 or get_origin(inner) is dict


def join(prefix: str, key: str) -> str:
    """`prefix.key`, or the key alone at the top."""
    return f"{prefix}.{key}" if prefix else key


def to_plain(value: Any) -> Any:
    """Sections as mappings and enums by name, unset values left out."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if hasattr(value, field.name)]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [to_plain(one) for one in value]
    return value.name if isinstance(value, Enum) else value
