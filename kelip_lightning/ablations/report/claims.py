"""The claims of a study for the reader: verdict, difference, power, and what an inconclusive result excludes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kelip_lightning.ablations.claims import INCONCLUSIVE, ClaimResult
from kelip_lightning.ablations.config import ClaimConfig
from kelip_lightning.ablations.report.tables import metric_label, unit_after, written


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSection:
    """A claim with a sentence for each of its variants."""

    text: str
    about: str
    """The expectation and the metrics."""
    lines: list[tuple[str, str]]
    """Verdict and sentence."""


def claim_sections(results: Sequence[ClaimResult], claims: Mapping[str, ClaimConfig]) -> list[ClaimSection]:
    """One section per claim, in the order of the study."""
    return [
        ClaimSection(
            text=claim.text,
            about=_about(claim),
            lines=[claim_line(one, claim.metrics[0]) for one in results if one.claim == name],
        )
        for name, claim in claims.items()
    ]


def _about(claim: ClaimConfig) -> str:
    labels = "; ".join(map(metric_label, claim.metrics))
    together = " (their items together)" if len(claim.metrics) > 1 else ""
    only = f" Only captions of the category {claim.category}." if claim.category is not None else ""
    mean = " The variants are taken together: their mean is compared with the reference." if claim.together else ""
    return f"Expected: {claim.direction.value} than the reference. Decided by {labels}{together}.{only}{mean}"


def claim_line(result: ClaimResult, metric: str) -> tuple[str, str]:
    """The verdict, and a sentence with the difference, the power at the stated difference, and what is excluded.

    Args:
        result: A claim about one variant.
        metric: One of the claim's, for the unit.
    """
    if result.difference is None or result.verdict is None:
        return "Not run", f"{result.variant}: no seed in common with the reference."
    unit = unit_after(metric, difference=True)

    def number(value: float | None) -> str:
        return written("difference", value, metric)

    if result.difference_low is None or result.difference_high is None:
        text = f"{result.variant}: {number(result.difference)}{unit}; one seed has no interval."
        return result.verdict.capitalize(), text
    text = (
        f"{result.variant}: {number(result.difference)} [{number(result.difference_low)}, "
        f"{number(result.difference_high)}]{unit}, corrected p {written('adjusted_p_value', result.adjusted_p_value)}"
    )
    if result.power is not None and result.smallest is not None:
        smallest = written("mean", result.smallest, metric)
        text += f"; a true difference of {smallest}{unit} is found with a power of {result.power:.0%}"
    text += "."
    if result.verdict == INCONCLUSIVE:
        text += f" {_excluded(result.difference_low, result.difference_high, metric)}"
    return result.verdict.capitalize(), text


def _excluded(low: float, high: float, metric: str) -> str:
    unit = unit_after(metric, difference=True)
    ends = [f"{what} {written('difference', end, metric)}" for what, end in (("above", high), ("below", low))]
    return f"True differences {' and '.join(ends)}{unit} are excluded with 95 % confidence."
