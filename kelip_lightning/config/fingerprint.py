"""The roles of settings (see `data_modules.config_roles`) applied to sections: identity, fingerprint, role of a key."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
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
