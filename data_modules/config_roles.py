"""Metadata of configuration fields: the role of a setting and its numeric range.

    num_workers: int = field(default=1, metadata=PERFORMANCE | at_least(0))

Loading, fingerprint, resuming, studies and docs/config.md read both from here. A field without a role is identity.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, fields, replace
from enum import Enum
from typing import Any, Literal

_ROLE, _COUNTED, _RANGE, _BASE = "role", "counted", "range", "base"


class Role(Enum):
    """Effect of another value of a setting."""

    identity = "identity"
    """Trains something else: a run with another value is another run."""
    performance = "performance"
    """Speed, hardware and timeouts: the weights are equal up to rounding."""
    reporting = "reporting"
    """Changes what is logged, evaluated and kept, and where."""


PERFORMANCE: dict[str, Any] = {_ROLE: Role.performance}
"""The weights are equal up to rounding; a resumed run may change the value."""
REPORTING: dict[str, Any] = {_ROLE: Role.reporting}
"""The weights do not depend on the value; a resumed run may change it. On a section: applies to all keys below."""


class PathBase(Enum):
    """The folder that a relative path of an experiment's YAML file is relative to."""

    file = "file"
    """That of the YAML file."""
    working = "working"
    """The working directory."""


FILE_PATH: dict[str, Any] = {_BASE: PathBase.file}
"""A path, or a list of paths or patterns, of data: relative to the YAML file."""
RUN_PATH: dict[str, Any] = {_BASE: PathBase.working}
"""A folder that a run has written: relative to the working directory, as output_dir."""


def path_base(field: "Field[Any]") -> PathBase | None:
    """What a relative path in this field is relative to; `None`: it holds no path."""
    base: PathBase | None = field.metadata.get(_BASE)
    return base


def counted_as(what: Callable[[Any], object]) -> dict[str, Any]:
    """An identity field of which only a part enters the fingerprint.

    Args:
        what: Value -> the part that counts; a constant result: the value never counts.
    """
    return {_ROLE: Role.identity, _COUNTED: what}


def stated_role(field: "Field[Any]") -> Role | None:
    """The role in the field's metadata; `None`: identity, and for a section the roles of its own fields."""
    role: Role | None = field.metadata.get(_ROLE)
    return role


def role_of(field: "Field[Any]") -> Role:
    return stated_role(field) or Role.identity


def counts_in_part(field: "Field[Any]") -> bool:
    """Whether different values of an identity field may count as the same."""
    return _COUNTED in field.metadata


def counted_part(field: "Field[Any]", value: Any) -> Any:
    """The part of an identity field's value that enters the fingerprint."""
    counted: Callable[[Any], Any] | None = field.metadata.get(_COUNTED)
    return value if counted is None else counted(value)


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a number may have; of a mapping, those of each entry."""

    rule: str
    """For a message: "at least 1"."""
    notation: str
    """For a table: "≥ 1"."""
    contains: Callable[[float], bool]
    word: str | None = None
    """The one text that may stand in place of a number."""


def at_least(low: float, reason: str = "", *, word: str | None = None) -> dict[str, Any]:
    """Value >= low, or the word, if there is one; the reason, if any, is shown in the message."""
    found = _range(f"at least {low}", f"≥ {low}", lambda value: value >= low, reason)
    if word is None:
        return found
    limits: Range = found[_RANGE]
    rule, notation = f"{limits.rule}, or {word}", f"{limits.notation}, `{word}`"
    return {_RANGE: replace(limits, rule=rule, notation=notation, word=word)}


def above(low: float, reason: str = "") -> dict[str, Any]:
    """Value > low; the reason, if any, is shown in the message."""
    return _range(f"above {low}", f"> {low}", lambda value: value > low, reason)


def between(low: float, high: float, inclusive: Literal["both", "left", "right", "neither"] = "both") -> dict[str, Any]:
    """The interval from low to high; `inclusive` names the ends that belong to it."""
    left, right = inclusive in ("both", "left"), inclusive in ("both", "right")
    interval = f"{'[' if left else '('}{low}, {high}{']' if right else ')'}"

    def contains(value: float) -> bool:
        return low <= value <= high and (left or value != low) and (right or value != high)

    return _range(f"in {interval}", interval, contains, "")


def _range(rule: str, notation: str, contains: Callable[[float], bool], reason: str) -> dict[str, Any]:
    return {_RANGE: Range(f"{rule} ({reason})" if reason else rule, notation, contains)}


def range_of(field: "Field[Any]") -> Range | None:
    """The range of a number; `None`: any finite value."""
    found: Range | None = field.metadata.get(_RANGE)
    return found


def range_problems(field: "Field[Any]", value: Any, key: str) -> Iterator[str]:
    """`key = value must be RULE`, for each number that is not finite or out of its field's range, and other texts."""
    limits, optional = range_of(field), " or null" if "None" in str(field.type) else ""
    if isinstance(value, str) and limits and limits.word and value != limits.word:
        yield f"{key} = {value!r} must be a whole number of {limits.rule}"
    entries = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {}
    for name, number in (entries or {key: value}).items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            yield f"{name} = {number} must be a finite number"
        elif limits and not limits.contains(number):
            yield f"{name} = {number} must be {limits.rule}{optional}"


def check_ranges(section: Any) -> None:
    """For `__post_init__` of a section.

    Raises:
        ValueError: The first number of the section that is out of its range.
    """
    for field in fields(section):
        value = getattr(section, field.name, None)  # loading leaves wrong values unset
        for problem in range_problems(field, value, field.name):
            raise ValueError(problem)
