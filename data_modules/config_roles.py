"""The role of a configuration field, as metadata beside the field; it decides whether two runs count as the same.

Example: `num_workers: int = field(default=1, metadata=PERFORMANCE)`. A field without metadata is identity, so that a
forgotten one makes two runs differ, and never makes different runs equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import Field
from enum import Enum
from typing import Any

_ROLE, _COUNTED = "role", "counted"


class Role(Enum):
    """Effect of another value of a setting."""

    identity = "identity"
    """Trains something else: a run with another value is another run."""
    performance = "performance"
    """Changes speed, hardware or timeouts: the weights are the same up to rounding."""
    reporting = "reporting"
    """Changes what is logged, evaluated and kept, and where."""


PERFORMANCE: Mapping[str, Any] = {_ROLE: Role.performance}
"""Metadata of a field that affects the weights only by rounding; a resumed run may change it."""
REPORTING: Mapping[str, Any] = {_ROLE: Role.reporting}
"""Metadata of a field that does not affect the weights; a resumed run may change it. A section's covers its fields."""


def counted_as(what: Callable[[Any], object]) -> Mapping[str, Any]:
    """Metadata of an identity field that counts only in part.

    Args:
        what: Value -> the part that two runs must have in common; `None` for a value without effect.
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
    """The part of an identity field's value that counts: all of it, unless the metadata has a function."""
    counted: Callable[[Any], Any] | None = field.metadata.get(_COUNTED)
    return value if counted is None else counted(value)
