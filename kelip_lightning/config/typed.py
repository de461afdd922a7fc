"""From a plain tree to typed sections, with every problem found instead of the first.

What is missing or wrong stays unset in its section, so that a rule that needs it raises AttributeError and is
skipped (see `run_rule`), while all other rules still run.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_modules.config_roles import range_problems
from kelip_lightning.config.renamed import current_name
from kelip_lightning.config.schema import (
    PLAIN_NAMES,
    describe,
    dotted_paths,
    join,
    section_of_mapping,
    without_none,
)

Section = TypeVar("Section")

MANDATORY = "???"
"""OmegaConf's and YAML's mark of a value that must still be given."""

_UNSET: Any = object()


def build_section(kind: type[Section], values: Any, prefix: str, problems: list[str]) -> Section:
    """A section with every value that is valid; what is not is reported.

    Args:
        kind: A section class whose fields are plain values, lists and mappings of them, or sections.
        values: What the files and overrides say.
        prefix: Dotted key of the section, empty at the top.
        problems: Grows by one sentence per problem.
    """
    section = object.__new__(kind)  # kind(...) would need every value and stop at the first broken rule
    if not isinstance(values, Mapping):
        problems.append(f"{prefix} = {shown(values)} must be a section {{key: value, ...}}, not {_kind_of(values)}")
        return section
    problems.extend(_unknown_keys(kind, values, prefix))
    hints, converter = get_type_hints(kind), OmegaConf.structured(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        given = values.get(field.name, MANDATORY)
        dotted = join(prefix, field.name)
        if isinstance(given, str) and given == MANDATORY:
            value = _default(field, dotted, problems)
        else:
            value = _build_value(converter, field, hints[field.name], given, dotted, problems)
        if value is not _UNSET:
            setattr(section, field.name, value)
    run_rule(lambda: _own_rule(section, prefix), problems)
    return section


def run_rule(rule: Callable[[], Iterable[str]], problems: list[str]) -> None:
    """Add what a rule finds; a rule that needs a value already reported as wrong is left out."""
    known = len(problems)
    try:
        for problem in rule():
            problems.append(problem)
    except AttributeError:
        if not known:
            raise


def _own_rule(section: Any, prefix: str) -> Iterable[str]:
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


def _build_value(converter: Any, field: "Field[Any]", hint: Any, given: Any, dotted: str, problems: list[str]) -> Any:
    inner, optional = without_none(hint)
    if given is None and optional:
        return None
    if is_dataclass(inner):
        assert isinstance(inner, type)
        return build_section(inner, given, dotted, problems)
    sections = section_of_mapping(inner)
    if sections and isinstance(given, Mapping):
        return {
            str(key): build_section(sections, one, join(dotted, str(key)), problems)
            for key, one in given.items()
            if one is not None  # `sources.name=null` removes an entry of an extended file
        }
    try:
        value = _convert(converter, field.name, inner, given)
    except OmegaConfBaseException:
        problems.append(f"{dotted} = {shown(given)} must be {describe(hint)}")
        return _UNSET
    if out_of_range := list(range_problems(field, value, dotted)):
        problems.extend(out_of_range)
        return _UNSET
    return value


def _convert(converter: Any, name: str, hint: Any, given: Any) -> Any:
    """The value as OmegaConf types it: `converter` is the section as OmegaConf sees it."""
    OmegaConf.update(converter, name, _spelled(given) if _holds_text(hint) else given, merge=False)
    value = converter[name]
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _holds_text(hint: Any) -> bool:
    arguments = get_args(hint)
    return _holds_text(arguments[-1]) if arguments else hint is str


def _spelled(value: Any) -> Any:
    """Booleans as YAML spells them: OmegaConf would write True where a text is asked for."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return [_spelled(one) for one in value]
    return {key: _spelled(one) for key, one in value.items()} if isinstance(value, dict) else value


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | Mapping):
        return "a list" if isinstance(value, list) else "a mapping"
    return PLAIN_NAMES.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """A value for a message: as YAML spells it, cut when long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_keys(kind: type, values: Mapping[Any, Any], prefix: str) -> Iterable[str]:
    names = [field.name for field in fields(kind)]
    for key in map(str, values):
        if key in names:
            continue
        if (today := current_name(kind, key)) is not None:
            yield f"{join(prefix, key)} is now called {join(prefix, today)}: use that name"
            continue
        close = difflib.get_close_matches(key, names, n=1)
        if not close:
            close = [path for path in dotted_paths(kind) if path.rpartition(".")[2] == key][:2]
        if close:
            hint = f"did you mean {' or '.join(join(prefix, one) for one in close)}?"
        else:
            hint = f"the keys {'of ' + prefix if prefix else 'here'} are {', '.join(names)}"
        yield f"{join(prefix, key)} is not a known key; {hint}"
