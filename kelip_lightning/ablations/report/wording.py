"""Numbers and names as a report writes them."""

from collections.abc import Sequence
from typing import Any

from kelip_lightning.ablations.examples import Example
from kelip_lightning.ablations.report.tables import Row
from kelip_lightning.ablations.results import ALL_ITEMS
from kelip_lightning.evaluation.metric_names import parse_metric, split_name
from kelip_lightning.statistics.significance import LEVEL, NUM_RESAMPLES, Verdict

SHARES = frozenset({"mean", "low", "high", "chance", "untrained", "equal_compute"})
DIFFERENCES = frozenset({"difference", "difference_low", "difference_high"})
MILLIONS = frozenset({"tokens", "images", "parameters", "equal_compute_tokens"})
ABSENT = "–"
EXAMPLES = (
    "The captions or classes whose rank parts furthest from the reference's: median over seeds, reference → variant. "
    "Chosen by what they show; how large a difference is, the tables say."
)

RULE = (
    f"Better or worse: the Holm-corrected p-value of the paired difference is below {LEVEL:g}; else cannot tell. "
    "The interval is mean ± the root of two parts added: Student's t times the spread over seeds, which is the larger "
    "of the variant's own and the one pooled over all runs of the study, and t times the spread over items, from "
    f"{NUM_RESAMPLES:,} bootstrap samples in which both runs have the same items and items with the same right answer "
    "are drawn together. Brackets are 95 % intervals, not corrected for the number of variants; the verdict is."
)


def written(column: str, value: Any) -> str:
    """A value of results.csv as the reader sees it: shares in percent, differences in points with their sign."""
    if value is None:
        return ABSENT
    if column in SHARES:
        return f"{100 * value:.1f}"
    if column in DIFFERENCES:
        return f"{100 * value:+.1f}"
    if column in MILLIONS and value >= 1e5:
        return f"{value / 1e6:,.1f} M" if value < 1e9 else f"{value / 1e9:,.1f} G"
    if column in ("p_value", "adjusted_p_value"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if column == "seconds":
        return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def metric_label(metric: str) -> str:
    """`eval/unseen_design_ko/image_to_text_R@1` as `unseen_design, ko: image to text R@1`."""
    task, k = parse_metric(metric)
    data_set, language, kind = split_name(task)
    where = f"{data_set}, {language}" if language and not kind.startswith(language) else data_set
    if k is None:
        return f"{where}: cosine of translations less that of other captions, centred, × 100"
    if kind == "zero_shot":
        return f"{where}: zero-shot top {k}"
    return f"{where}: {kind.replace('_', ' ')} R@{k}"


def unit_of(metric: str) -> str:
    """What the numbers of a metric are, for the line above its table."""
    measured = parse_metric(metric)[1] is None
    return "Cosines × 100." if measured else "In percent; differences in points."


def example_lines(examples: Sequence[Example], metrics: Sequence[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Per judged metric with examples: its label, and (variant, items further to the front, items further back)."""
    found = []
    for metric in metrics:
        mine = [one for one in examples if one.metric == metric]
        lines = []
        for variant in dict.fromkeys(one.variant for one in mine):
            sides = (
                ", ".join(
                    f"{one.text} ({one.reference_rank:g} → {one.rank:g})"
                    for one in mine
                    if one.variant == variant and one.is_better == better
                )
                for better in (True, False)
            )
            front, back = (side or ABSENT for side in sides)
            lines.append((variant, front, back))
        if lines:
            found.append((metric_label(metric), lines))
    return found


def answers(rows: Sequence[Row], metrics: Sequence[str]) -> list[tuple[str, list[tuple[str, list[Row]]]]]:
    """Per judged metric: its label, and (verdict, rows of the variants that it was passed on)."""
    found = []
    for metric in metrics:
        judged = [row for row in rows if row["metric"] == metric and row["items"] == ALL_ITEMS]
        passed = [(one.value, [row for row in judged if row["verdict"] == one.value]) for one in Verdict]
        found.append((metric_label(metric), [(name, variants) for name, variants in passed if variants]))
    return found
