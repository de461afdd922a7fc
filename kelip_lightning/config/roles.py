"""Walks over settings by their roles, which `data_modules.config_roles` explains."""

from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_type_hints

from data_modules.config_roles import Role, counted_part, role_of
from kelip_lightning.config.schema import section_of_mapping, to_plain, without_none


def identity_of(section: Any) -> Any:
    """What two sections must have in common to train, or for evaluation sets to measure, the same; plain values."""
    return _select(section, lambda field: role_of(field) is Role.identity, counted_part)


def settings_without(role: Role, section: Any) -> Any:
    """The settings of all other roles, plain values."""
    return _select(section, lambda field: role_of(field) is not role, lambda _, value: value)


def _select(value: Any, is_wanted: "Callable[[Field[Any]], bool]", part: "Callable[[Field[Any], Any], Any]") -> Any:
    """Sections as mappings of the wanted fields, each to the part of its value; the rest as `to_plain` has it."""
    if is_dataclass(value):
        wanted = {field.name: part(field, getattr(value, field.name)) for field in fields(value) if is_wanted(field)}
        return {name: _select(one, is_wanted, part) for name, one in wanted.items()}
    if isinstance(value, dict):
        return {key: _select(one, is_wanted, part) for key, one in value.items()}
    return to_plain(value)


def role_of_key(kind: type, keys: Sequence[str]) -> Role:
    """The role of a dotted key that a section class has; what a section is that is not identity, all of it is."""
    field = next(one for one in fields(kind) if one.name == keys[0])
    if role_of(field) is not Role.identity:
        return role_of(field)
    inner, _ = without_none(get_type_hints(kind)[field.name])
    below, rest = (inner, keys[1:]) if is_dataclass(inner) else (section_of_mapping(inner), keys[2:])
    return role_of_key(below, rest) if isinstance(below, type) and rest else Role.identity
