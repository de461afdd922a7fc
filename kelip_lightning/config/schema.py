"""Section classes: their types and keys, and building them from a plain tree with all problems reported together."""

import difflib
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_modules.config_roles import range_of, range_problems
from kelip_lightning.config.renamed import current_name

Section = TypeVar("Section")

MANDATORY = "???"
"""OmegaConf's mark of a value that must still be given."""
PLAIN_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

_UNSET: Any = object()


def without_none(hint: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether it had one."""
    if get_origin(hint) not in (Union, types.UnionType) or types.NoneType not in get_args(hint):
        return hint, False
    return next(one for one in get_args(hint) if one is not types.NoneType), True


def section_of_mapping(hint: Any) -> type | None:
    """The section class of a `dict[str, Section]`, else None."""
    arguments = get_args(hint)
    found = arguments[1] if get_origin(hint) is dict and is_dataclass(arguments[1]) else None
    return found if isinstance(found, type) else None


def section_of_list(hint: Any) -> type | None:
    """The section class of a `list[Section]`, else None."""
    arguments = get_args(hint)
    found = arguments[0] if get_origin(hint) is list and is_dataclass(arguments[0]) else None
    return found if isinstance(found, type) else None


def section_below(hint: Any) -> type[Any] | None:
    """The section class of a field: its type, or that of the entries of its mapping or list; `None`: plain values."""
    inner, _ = without_none(hint)
    below = section_of_mapping(inner) or section_of_list(inner) or inner
    return below if isinstance(below, type) and is_dataclass(below) else None


def dotted_paths(kind: type) -> list[str]:
    """Every dotted key of a section class; entries of a mapping of sections as `*`."""
    paths: list[str] = []
    for name, hint in get_type_hints(kind).items():
        paths.append(name)
        if below := section_below(hint):
            inner, _ = without_none(hint)
            middle = f"{name}.*" if section_of_mapping(inner) or section_of_list(inner) else name
            paths.extend(f"{middle}.{path}" for path in dotted_paths(below))
    return paths


def has_key(kind: type, keys: list[str]) -> bool:
    """Whether a section class has this dotted key; mappings accept any name."""
    if not keys:
        return True
    inner, _ = without_none(get_type_hints(kind).get(keys[0]))
    if section_of_list(inner):
        return len(keys) == 1  # a list is replaced as a whole
    if below := section_below(inner):
        return has_key(below, keys[2 if section_of_mapping(inner) else 1 :])
    return get_origin(inner) is dict or (inner is not None and len(keys) == 1)


def join(prefix: str, key: str) -> str:
    """`prefix.key`, or the key alone at the top."""
    return f"{prefix}.{key}" if prefix else key


def to_plain(value: Any) -> Any:
    """Sections as mappings and enums by name; unset fields are left out."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if hasattr(value, field.name)]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [to_plain(one) for one in value]
    return value.name if isinstance(value, Enum) else value


def build_section(kind: type[Section], values: Any, prefix: str, problems: list[str]) -> Section:
    """A section with every valid value; missing and invalid ones are reported and stay unset.

    Args:
        kind: A section class whose fields are plain values, lists and mappings of them, or sections.
        values: The merged tree of files and overrides.
        prefix: Dotted key of the section, empty at the top.
        problems: One sentence per problem is appended.
    """
    section = object.__new__(kind)  # kind(...) would need every value and stop at the first broken rule
    if not isinstance(values, Mapping):
        problems.append(f"{prefix} = {shown(values)} must be a section {{key: value, ...}}, not {_kind_of(values)}")
        return section
    problems.extend(_unknown_keys(kind, values, prefix))
    hints = get_type_hints(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        given = values.get(field.name, MANDATORY)
        dotted = join(prefix, field.name)
        if isinstance(given, str) and given == MANDATORY:
            value = _default(field, dotted, problems)
        else:
            value = _build_value(kind, field, hints[field.name], given, dotted, problems)
        if value is not _UNSET:
            setattr(section, field.name, value)
    run_rule(lambda: _own_rule(section, prefix), problems)
    return section


def run_rule(rule: Callable[[], Iterable[str]], problems: list[str]) -> None:
    """Append a rule's problems; a rule that reads an unset value, which is reported already, is skipped."""
    known = len(problems)
    try:
        for problem in rule():
            problems.append(problem)
    except AttributeError:
        if not known:
            raise


def _own_rule(section: Any, prefix: str) -> Iterator[str]:
    check = getattr(section, "__post_init__", None)
    try:
        if check:
            check()
    except ValueError as error:
        text = str(error)
        about_field = re.split(r"[^\w]", text)[0] in {field.name for field in fields(section)}
        yield join(prefix, text) if about_field else f"{prefix or 'the experiment'}: {text}"


def _default(field: "Field[Any]", dotted: str, problems: list[str]) -> Any:
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    problems.append(f"{dotted} is missing and has no default: give it in the file, or as {dotted}=VALUE")
    return _UNSET


@cache
def _converter(kind: type) -> Any:
    """A section class as OmegaConf sees it, which converts a value that is assigned to a field.

    One for all sections of a class, since making it takes longer than all its conversions.
    """
    return OmegaConf.structured(kind)


def _build_value(kind: type, field: "Field[Any]", hint: Any, given: Any, dotted: str, problems: list[str]) -> Any:
    """The value of a section's field as OmegaConf converts it."""
    inner, optional = without_none(hint)
    if given is None and optional:
        return None
    if isinstance(inner, type) and is_dataclass(inner):
        return build_section(inner, given, dotted, problems)
    sections = section_of_mapping(inner)
    if sections and isinstance(given, Mapping):
        return {
            str(key): build_section(sections, one, join(dotted, str(key)), problems)
            for key, one in given.items()
            if one is not None  # `sources.name=null` removes an entry of an extended file
        }
    if (entries := section_of_list(inner)) and isinstance(given, list):
        return [build_section(entries, one, join(dotted, str(place)), problems) for place, one in enumerate(given)]
    converter, limits = _converter(kind), range_of(field)
    word = limits.word if limits else None
    if word is not None and isinstance(given, str) and given.isdecimal():
        given = int(given)
    try:
        OmegaConf.update(converter, field.name, _spelled(given) if _holds_text(inner) else given, merge=False)
        value = converter[field.name]
    except OmegaConfBaseException:
        expected = f"a whole number of {limits.rule}" if limits and word else _describe(hint)
        problems.append(f"{dotted} = {shown(given)} must be {expected}")
        return _UNSET
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    out_of_range = list(range_problems(field, value, dotted))
    problems.extend(out_of_range)
    return _UNSET if out_of_range else value


def _holds_text(hint: Any) -> bool:
    arguments = () if isinstance(hint, types.UnionType) else get_args(hint)
    return _holds_text(arguments[-1]) if arguments else hint is str


def _spelled(value: Any) -> Any:
    """Booleans as YAML spells them: OmegaConf would write True into a text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return [_spelled(one) for one in value]
    return {key: _spelled(one) for key, one in value.items()} if isinstance(value, dict) else value


def _describe(hint: Any) -> str:
    inner, optional = without_none(hint)
    if optional:
        return f"{_describe(inner)} or null"
    if isinstance(inner, type) and issubclass(inner, Enum):
        return f"one of {', '.join(inner.__members__)}"
    if get_origin(inner) is list:
        return f"a list [{_describe(get_args(inner)[0])}, ...]"
    if get_origin(inner) is dict:
        return f"a mapping {{key: {'section' if section_of_mapping(inner) else _describe(get_args(inner)[1])}, ...}}"
    return PLAIN_NAMES.get(inner, "a section")


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | Mapping):
        return "a list" if isinstance(value, list) else "a mapping"
    return PLAIN_NAMES.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """A value for a message: as YAML spells it, cut after 60 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_keys(kind: type, values: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    names = [field.name for field in fields(kind)]
    for key in [one for one in map(str, values) if one not in names]:
        if new_name := current_name(kind, key):
            yield f"{join(prefix, key)} is now called {join(prefix, new_name)}: use that name"
            continue
        close = difflib.get_close_matches(key, names, n=1)
        close = close or [path for path in dotted_paths(kind) if path.rpartition(".")[2] == key][:2]
        if close:
            hint = f"did you mean {' or '.join(join(prefix, one) for one in close)}?"
        else:
            hint = f"the keys {'of ' + prefix if prefix else 'here'} are {', '.join(names)}"
        yield f"{join(prefix, key)} is not a known key; {hint}"
