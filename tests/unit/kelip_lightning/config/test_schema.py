"""Building sections from trees, and walks over section classes."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from data_modules.config_roles import at_least
from kelip_lightning.config.schema import build_section, dotted_paths, has_key, run_rule, to_plain


class Shape(Enum):
    """A choice."""

    round = "round"
    square = "square"


@dataclass(kw_only=True, slots=True)
class Part:
    """A section with a rule of its own."""

    size: int
    rate: float = 0.5
    shape: Shape = Shape.round
    label: str | None = None
    where: dict[str, list[str]] = field(default_factory=dict)
    count: int | str = field(default=1, metadata=at_least(1, word="auto"))

    def __post_init__(self) -> None:
        if self.size % 2:
            raise ValueError(f"size = {self.size} must be even")


@dataclass(kw_only=True, slots=True)
class Whole:
    """A section of sections."""

    name: str
    exact: bool = False
    part: Part
    parts: dict[str, Part] = field(default_factory=dict)
    spare: Part | None = None


def build(tree: dict[str, Any]) -> tuple[Whole, list[str]]:
    problems: list[str] = []
    return build_section(Whole, tree, "", problems), problems


def test_build_section__typed_values() -> None:
    whole, problems = build(
        {
            "name": "x",
            "part": {"size": "4", "rate": 1, "shape": "square", "where": {"tone": [True, 1]}},
            "parts": {"a": {"size": 2}, "gone": None},
        }
    )
    assert problems == []
    assert whole == Whole(
        name="x",
        part=Part(size=4, rate=1.0, shape=Shape.square, where={"tone": ["true", "1"]}),
        parts={"a": Part(size=2)},
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"part": {"size": "ten"}}, "part.size = 'ten' must be a whole number"),
        ({"part": {"size": 2.5}}, "part.size = 2.5 must be a whole number"),
        ({"part": {"size": None}}, "part.size = null must be a whole number"),
        ({"part": {"size": 2, "rate": True}}, "part.rate = true must be a number"),
        ({"part": {"size": 2, "shape": "oval"}}, "part.shape = 'oval' must be one of round, square"),
        ({"part": {"size": 2, "where": {"a": "b"}}}, "must be a mapping {key: a list [text, ...], ...}"),
        ({"part": {"size": 2, "label": [1]}}, "part.label = [1] must be text or null"),
        ({"part": 3}, "part = 3 must be a section"),
        ({"part": None}, "part = null must be a section"),
        ({"parts": {"a": {"size": 1}}}, "parts.a.size = 1 must be even"),
        ({"parts": [1]}, "parts = [1] must be a mapping {key: section, ...}"),
        ({"part": {"size": 2, "count": 0}}, "part.count = 0 must be at least 1, or auto"),
        ({"part": {"size": 2, "count": "all"}}, "part.count = 'all' must be a whole number of at least 1, or auto"),
        ({"part": {"size": 2, "count": None}}, "part.count = null must be a whole number of at least 1, or auto"),
        ({"exact": "maybe"}, "exact = 'maybe' must be true or false"),
        ({"part": {}}, "part.size is missing and has no default: give it in the file, or as part.size=VALUE"),
        ({"name": "???"}, "name is missing"),
        ({"nmae": "x"}, "nmae is not a known key; did you mean name?"),
        ({"rate": 1}, "rate is not a known key; did you mean part.rate or parts.*.rate?"),
        ({"xyz": 1}, "xyz is not a known key; the keys here are name, exact, part, parts, spare"),
        ({"spare": {"size": 2, "sise": 2}}, "spare.sise is not a known key; did you mean spare.size?"),
    ],
)
def test_build_section__one_message_per_problem(change: dict[str, Any], expected: str) -> None:
    _, problems = build({"name": "x", "part": {"size": 2}, **change})
    assert len(problems) == 1
    assert problems[0].startswith(expected) or expected in problems[0]


@pytest.mark.parametrize(("given", "expected"), [(3, 3), ("3", 3), ("auto", "auto")])
def test_build_section__a_number_or_a_word(given: int | str, expected: int | str) -> None:
    whole, problems = build({"name": "x", "part": {"size": 2, "count": given}})
    assert problems == []
    assert whole.part.count == expected


def test_build_section__finds_all_problems_together() -> None:
    _, problems = build({"part": {"size": 3, "rat": 1}, "parts": {"a": {"size": "x"}}, "spare": {"size": 5}})
    assert [one.split(" ")[0] for one in problems] == [
        "name",
        "part.rat",
        "part.size",
        "parts.a.size",
        "spare.size",
    ]


def test_run_rule__skips_unset_values_but_hides_no_bug() -> None:
    whole, problems = build({"name": "x", "part": {"size": "ten"}})
    run_rule(lambda: [f"{whole.part.size}"], problems)
    assert len(problems) == 1
    with pytest.raises(AttributeError):
        run_rule(lambda: [f"{whole.part.size}"], [])


def test_walks() -> None:
    whole = Whole(name="x", part=Part(size=2), parts={"a": Part(size=4)})
    assert to_plain(whole)["part"]["shape"] == "round"
    assert "parts.*.size" in dotted_paths(Whole)
    assert has_key(Whole, ["parts", "any", "size"])
    assert has_key(Whole, ["part", "where", "any"])
    assert not has_key(Whole, ["part", "length"])
    assert not has_key(Whole, ["name", "x"])
