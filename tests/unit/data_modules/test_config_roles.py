"""Roles of fields; a field without one is identity."""

from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from data_modules.config_roles import (
    PERFORMANCE,
    REPORTING,
    Role,
    above,
    at_least,
    between,
    check_ranges,
    counted_as,
    counted_part,
    role_of,
    stated_role,
)


@dataclass(kw_only=True, slots=True)
class Oven:
    degrees: int = 200
    shelves: int = field(default=2, metadata=PERFORMANCE)
    light: bool = field(default=False, metadata=REPORTING)
    fuel: str = field(default="gas", metadata=counted_as(str.upper))


def test_role_of__identity_unless_the_field_says_otherwise() -> None:
    roles = {one.name: role_of(one) for one in fields(Oven)}
    assert roles == {
        "degrees": Role.identity,
        "shelves": Role.performance,
        "light": Role.reporting,
        "fuel": Role.identity,
    }
    assert stated_role(next(iter(fields(Oven)))) is None


def test_counted_part__all_of_a_value_unless_the_field_says_otherwise() -> None:
    degrees, *_, fuel = fields(Oven)
    assert counted_part(degrees, 180) == 180
    assert counted_part(fuel, "gas") == counted_part(fuel, "Gas") == "GAS"


@dataclass(kw_only=True, slots=True)
class Ranges:
    count: int = field(default=2, metadata=PERFORMANCE | at_least(2, "one has no spread"))
    rate: float | None = field(default=None, metadata=above(0))
    share: float = field(default=0.5, metadata=between(0, 1))
    ratio: float = field(default=0.5, metadata=between(0, 1, "left"))
    scale: float = field(default=0.5, metadata=between(0, 1, "right"))
    decay: float = field(default=0.5, metadata=between(0, 1, "neither"))
    weights: dict[str, float] = field(default_factory=dict, metadata=above(0))
    bias: float = 0.0
    workers: int | str = field(default="auto", metadata=at_least(1, word="auto"))

    def __post_init__(self) -> None:
        check_ranges(self)


def test_check_ranges__bounds_that_belong_to_them() -> None:
    Ranges(count=2, rate=1e-9, share=0, ratio=0, scale=1, weights={"ko": 0.1}, bias=-3)
    Ranges(share=1, rate=None, ratio=0.999, scale=0.001, workers=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 1}, "count = 1 must be at least 2 (one has no spread)"),
        ({"rate": 0}, "rate = 0 must be above 0 or null"),
        ({"share": 1.1}, "share = 1.1 must be in [0, 1]"),
        ({"ratio": 1}, "ratio = 1 must be in [0, 1)"),
        ({"scale": 0}, "scale = 0 must be in (0, 1]"),
        ({"decay": 0}, "decay = 0 must be in (0, 1)"),
        ({"decay": 1}, "decay = 1 must be in (0, 1)"),
        ({"weights": {"en": 1.0, "ko": 0.0}}, "weights.ko = 0.0 must be above 0"),
        ({"bias": float("nan")}, "bias = nan must be a finite number"),
        ({"workers": 0}, "workers = 0 must be at least 1, or auto"),
        ({"workers": "all"}, "workers = 'all' must be a whole number of at least 1, or auto"),
    ],
)
def test_check_ranges__message_names_key_value_and_rule(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Ranges(**values)
    assert str(caught.value) == message
