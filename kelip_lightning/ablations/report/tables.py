"""results.csv, the source of every number in a report, the other tables, and the format of their values."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kelip_lightning.ablations.claims import ClaimResult
from kelip_lightning.ablations.collect import Cost, CurvePoint, LossPoint, RunRecord, StudyReport
from kelip_lightning.ablations.results import ALL_ITEMS, Example, Result
from kelip_lightning.ablations.study import Study
from kelip_lightning.evaluation import metric_names
from kelip_lightning.evaluation.metric_names import ZERO_SHOT, Unit, parse_metric, split_name, unit_of
from kelip_lightning.statistics.significance import Verdict

Row = dict[str, Any]

_COST_COLUMNS = tuple(field.name for field in fields(Cost) if field.name != "variant")
_JUDGED_COLUMNS = ("chance", "untrained", "equal_compute", "equal_compute_tokens")
_RESULT_COLUMNS = (*(field.name for field in fields(Result)), *_JUDGED_COLUMNS, *_COST_COLUMNS)
"""Of results.csv: the fields of a result; the metric by chance, without training and at equal compute; a run's cost."""

ABSENT = "–"
QUICK = "Quick run: not evidence. Its settings are too short to answer anything; they test that the study works."
_VALUES = frozenset({"mean", "low", "high", "chance", "untrained", "equal_compute", "detectable"})
_DIFFERENCES = frozenset({"difference", "difference_low", "difference_high"})
_MILLIONS = frozenset({"tokens", "images", "parameters", "equal_compute_tokens"})


def result_rows(report: StudyReport) -> list[Row]:
    """The rows of results.csv; columns that exist only for judged metrics over all items are `None` in the others."""
    costs = {one.variant: asdict(one) for one in report.costs}
    rows = []
    for result in report.results:
        row = asdict(result) | dict.fromkeys(_JUDGED_COLUMNS)
        if result.items == ALL_ITEMS:
            row |= report.references.get(result.metric, {})
            row |= report.equal_compute.get((result.metric, result.variant), {})
        rows.append(row | {column: costs[result.variant][column] for column in _COST_COLUMNS})
    return rows


def write_tables(folder: Path, study: Study, report: StudyReport) -> None:
    """Write results.csv, claims.csv, curves.csv, losses.csv, examples.csv, runs.csv and results.json."""
    rows = result_rows(report)
    _write_csv(folder / "results.csv", _RESULT_COLUMNS, rows)
    for name, kind, records in (
        ("claims", ClaimResult, report.claims),
        ("curves", CurvePoint, report.curves),
        ("losses", LossPoint, report.losses),
        ("examples", Example, report.examples),
        ("runs", RunRecord, report.runs),
    ):
        columns = [field.name for field in fields(kind)]
        _write_csv(folder / f"{name}.csv", columns, [asdict(one) for one in records])
    document = {
        "study": study.name,
        "quick": study.quick,
        "question": study.config.question,
        "paper": study.config.paper,
        "scale": study.scale_name,
        "base": str(study.base),
        "reference": study.config.reference,
        "variants": {
            name: {"about": config.about, "overrides": config.overrides}
            for name, config in study.config.variants_at(study.scale_name).items()
        },
        "results": rows,
        "claims": [asdict(one) for one in report.claims],
        "runs": [asdict(one) for one in report.runs],
        "notes": report.notes,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Every column of every row; `None` is an empty cell, numbers keep all their digits."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def written(column: str, value: Any, metric: str = "") -> str:
    """A value of results.csv for the reader: in the metric's unit (shares in percent), differences with their sign."""
    if value is None:
        return ABSENT
    if column in _VALUES or column in _DIFFERENCES:
        return metric_names.written(metric, value, signed=column in _DIFFERENCES)
    if column in _MILLIONS and value >= 1e5:
        return f"{value / 1e6:,.1f} M" if value < 1e9 else f"{value / 1e9:,.1f} G"
    if column in ("p_value", "adjusted_p_value"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if column == "seconds":
        return f"{value:,.0f}"
    if column == "steps_share":
        return f"{value:.0%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def metric_label(metric: str) -> str:
    """`eval/unseen_design_ko/image_to_text_R@1` as `unseen_design, ko: image to text R@1`."""
    task, k = parse_metric(metric)
    data_set, language, kind = split_name(task)
    where = f"{data_set}, {language}" if language and not kind.startswith(language) else data_set
    if k is None:
        return f"{where}: cosine of translations minus that of other captions, centred"
    if kind == ZERO_SHOT:
        return f"{where}: zero-shot top {k}"
    return f"{where}: {kind.replace('_', ' ')} R@{k}"


_UNITS = {
    Unit.share: "In percent; differences in points.",
    Unit.cosine: "A difference of cosines, from -2 to 2, and no percentage.",
    Unit.rank: "A rank from 1; lower is better.",
}


def unit_sentence(metric: str) -> str:
    """The unit of a metric, for the line above its table."""
    return _UNITS[unit_of(metric)]


def unit_after(metric: str, *, difference: bool = False) -> str:
    """What follows a number in a sentence: ` %`, ` points` or nothing."""
    if unit_of(metric) is not Unit.share:
        return ""
    return " points" if difference else " %"


def axis_title(metric: str) -> str:
    """Title of an axis with values of the metric."""
    task, k = parse_metric(metric)
    if k is None:
        return "difference of cosines"
    return f"top {k}, %" if task.endswith(ZERO_SHOT) else f"R@{k}, %"


def example_lines(examples: Sequence[Example], metrics: Sequence[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Per judged metric with examples: its label, and (variant, items ranked higher, items ranked lower)."""
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
            higher, lower = (side or ABSENT for side in sides)
            lines.append((variant, higher, lower))
        if lines:
            found.append((metric_label(metric), lines))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether variants are higher than the reference on one metric."""

    metric: str
    reference: Row | None
    """The reference's row; `None`: no run of it has finished."""
    verdicts: list[tuple[Row, str]]
    """The row of each compared variant, and `Yes`, `No` or `Inconclusive`."""


_ANSWERS = {Verdict.better: "Yes", Verdict.worse: "No", Verdict.inconclusive: "Inconclusive"}


def answers(rows: Sequence[Row], metrics: Sequence[str]) -> list[Answer]:
    """The answer on each judged metric: variants that are better first, then worse ones, then the others."""
    found = []
    for metric in metrics:
        judged = [row for row in rows if row["metric"] == metric and row["items"] == ALL_ITEMS]
        verdicts = [(row, word) for one, word in _ANSWERS.items() for row in judged if row["verdict"] == one.value]
        reference = next((row for row in judged if row["verdict"] is None), None)
        found.append(Answer(metric=metric, reference=reference, verdicts=verdicts))
    return found


def summary(found: Sequence[Answer], reference: str) -> list[str]:
    """Sentences that answer the study's question over all judged metrics."""
    by_word: dict[str, dict[str, int]] = {word: {} for word in _ANSWERS.values()}
    for answer in found:
        for row, word in answer.verdicts:
            by_word[word][row["variant"]] = by_word[word].get(row["variant"], 0) + 1
    total = len(found)

    def named(word: str) -> str:
        return ", ".join(f"{variant} (on {count} of {total})" for variant, count in by_word[word].items())

    open_on_all = [variant for variant, count in by_word["Inconclusive"].items() if count == total]
    metrics = "metrics" if total > 1 else "metric"
    sentences = []
    if by_word["Yes"]:
        sentences.append(f"Yes, higher than {reference} on the judged {metrics}: {named('Yes')}.")
    if by_word["No"]:
        sentences.append(f"No, lower than {reference} on the judged {metrics}: {named('No')}.")
    if open_on_all:
        where = "every judged metric" if total > 1 else "the judged metric"
        sentences.append(f"Inconclusive on {where}: {', '.join(open_on_all)}.")
    return sentences or ["Nothing to compare yet."]
