"""What a setting is for, said once, beside its field: whoever tells runs apart reads it there.

A field says so in its metadata: `num_workers: int = field(default=1, metadata=PERFORMANCE)`. One that says nothing is
identity, so that a forgotten one makes two runs of what is one, and never one of what are two.
"""

from collections.abc import Callable, Mapping
from dataclasses import Field
from enum import Enum
from typing import Any

_ROLE, _COUNTED = "role", "counted"


class Role(Enum):
    """What another value of a setting changes."""

    identity = "identity"
    """What is trained: a run with another value is another run."""
    performance = "performance"
    """How fast, on what and with how much patience: the weights are the same, but for rounding."""
    reporting = "reporting"
    """What is logged, evaluated and kept, and where."""


PERFORMANCE: Mapping[str, Any] = {_ROLE: Role.performance}
"""Metadata of a field whose value changes nothing of the weights but rounding; a resumed run may change it."""
REPORTING: Mapping[str, Any] = {_ROLE: Role.reporting}
"""Metadata of a field that the weights do not depend on; a resumed run may change it. A section's covers all below."""


def counted_as(what: Callable[[Any], object]) -> Mapping[str, Any]:
    """Metadata of an identity field of whose value only a part counts.

    Args:
        what: Value -> what two values must have in common to train the same; none: the value changes nothing.
    """
    return {_ROLE: Role.identity, _COUNTED: what}


def stated_role(field: "Field[Any]") -> Role | None:
    """What the field itself says; none: nothing, which is identity, and for a section what its own fields say."""
    role: Role | None = field.metadata.get(_ROLE)
    return role


def role_of(field: "Field[Any]") -> Role:
    """The role of a field."""
    return stated_role(field) or Role.identity


def counts_in_part(field: "Field[Any]") -> bool:
    """Whether different values of an identity field may be one identity."""
    return _COUNTED in field.metadata


def counted_part(field: "Field[Any]", value: Any) -> Any:
    """What of an identity field's value counts: all of it, unless the field says otherwise."""
    counted: Callable[[Any], Any] | None = field.metadata.get(_COUNTED)
    return value if counted is None else counted(value)
