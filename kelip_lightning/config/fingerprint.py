"""The roles of settings (see `data_modules.config_roles`) applied to sections: identity, fingerprint, role of a key."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from data_modules.config_roles import Role, counted_part, role_of
from kelip_lightning.config.schema import section_below, section_of_mapping, to_plain, without_none

if TYPE_CHECKING:
    from data_modules.benchmarks.config import EvaluationConfig
    from kelip_lightning.config.experiment import Experiment


def training_fingerprint(experiment: "Experiment") -> str:
    """Twelve hexadecimal digits of all settings that may change the trained weights: equal settings, equal digits."""
    return _digest(identity_of(experiment))


def evaluation_fingerprint(evaluation: "EvaluationConfig") -> str:
    """Twelve hexadecimal digits of the evaluation sets; how often they are evaluated does not count."""
    return _digest(identity_of(evaluation))


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def identity_of(section: Any) -> Any:
    """The settings of role identity, plain values."""
    return _select(section, lambda field: role_of(field) is Role.identity, counted_part)


def settings_without(role: Role, section: Any) -> Any:
    """The settings of all other roles, plain values."""
    return _select(section, lambda field: role_of(field) is not role, lambda _, value: value)


def changed_settings(section: Any, always: Sequence[str] = (), at: str = "") -> dict[str, Any]:
    """Dotted key -> plain value of the settings of role identity that differ from the default of their field.

    Args:
        section: An experiment or a part of it.
        always: Dotted keys that are wanted in any case.
        at: Dotted key of the section, with a dot at the end.
    """
    found: dict[str, Any] = {}
    for field in fields(section):
        value, key = getattr(section, field.name), f"{at}{field.name}"
        if role_of(field) is not Role.identity or field.name == "files":  # names of files say little in a table
            continue
        if is_dataclass(value):
            found |= changed_settings(value, always, f"{key}.")
        elif isinstance(value, dict) and any(is_dataclass(one) for one in value.values()):
            for name, one in value.items():
                found |= changed_settings(one, always, f"{key}.{name}.")
        elif key in always or to_plain(value) != to_plain(_default_of(field)):
            found[key] = to_plain(value)
    return found


def _default_of(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _select(value: Any, is_wanted: "Callable[[Field[Any]], bool]", part: "Callable[[Field[Any], Any], Any]") -> Any:
    """Sections as mappings of the wanted fields, each to the part of its value; the rest as in `to_plain`."""
    if is_dataclass(value):
        wanted = {field.name: part(field, getattr(value, field.name)) for field in fields(value) if is_wanted(field)}
        return {name: _select(one, is_wanted, part) for name, one in wanted.items()}
    if isinstance(value, dict):
        return {key: _select(one, is_wanted, part) for key, one in value.items()}
    return to_plain(value)


def role_of_key(kind: type, keys: Sequence[str]) -> Role:
    """The role of a dotted key of a section class; the role of a section that is not identity covers all its keys."""
    field = next(one for one in fields(kind) if one.name == keys[0])
    if role_of(field) is not Role.identity:
        return role_of(field)
    hint = without_none(get_type_hints(kind)[field.name])[0]
    below, rest = section_below(hint), keys[2 if section_of_mapping(hint) else 1 :]
    return role_of_key(below, rest) if below and rest else Role.identity
