"""What an analysis finds, in the form that every analysis shares."""

from dataclasses import dataclass, field

from kelip_lightning.statistics.bootstrap import Interval

Item = dict[str, str | int | float | bool | None]
"""One row per word pair, caption or query: column -> value."""


def number(item: Item, column: str) -> float:
    """The value of a column that holds numbers."""
    value = item[column]
    assert isinstance(value, int | float)
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One metric with its 95% bootstrap interval."""

    subject: str
    """What it is about: an evaluation set, a topic, a relation."""
    measure: str
    """What was measured, for example `ko_to_en_R@1`."""
    interval: Interval
    count: int
    """Number of items behind it."""
    chance: float | None = None
    """What guessing gives, where that is known."""
    headline: bool = True
    """Whether a short table shows it."""

    def row(self) -> dict[str, str | float | int | None]:
        """The finding as one row of a table."""
        return {
            "subject": self.subject,
            "measure": self.measure,
            "value": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "count": self.count,
            "chance": self.chance,
        }


@dataclass(slots=True, kw_only=True)
class Findings:
    """The result of an analysis."""

    summary: list[Finding] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    """What the metrics say, each sentence by a stated rule."""

    def extend(self, other: "Findings") -> None:
        """Add what another part of the analysis found."""
        self.summary += other.summary
        self.items += other.items
        self.statements += other.statements
