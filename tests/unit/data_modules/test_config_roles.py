"""Roles of fields; a field without one is identity."""

from dataclasses import dataclass, field, fields

from data_modules.config_roles import PERFORMANCE, REPORTING, Role, counted_as, counted_part, role_of, stated_role


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
