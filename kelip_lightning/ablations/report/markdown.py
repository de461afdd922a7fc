"""report.md: the report for a terminal, a review or a repository's pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from kelip_lightning.ablations.examples import Example
from kelip_lightning.ablations.findings import Findings
from kelip_lightning.ablations.report.tables import Row, result_rows
from kelip_lightning.ablations.report.wording import (
    ABSENT,
    EXAMPLES,
    RULE,
    answers,
    example_lines,
    metric_label,
    unit_of,
    written,
)
from kelip_lightning.ablations.results import ALL_ITEMS
from kelip_lightning.ablations.study import Study


def markdown_report(study: Study, findings: Findings) -> str:
    """The whole page."""
    rows = result_rows(findings)
    metrics = study.scale.metrics
    lines = [f"# {study.name} ({study.scale_name})", "", study.config.question, "", "## Answer", ""]
    for label, passed in answers(rows, metrics):
        named = [f"{name}: {', '.join(map(_with_difference, variants))}" for name, variants in passed]
        lines.append(f"- {label}: {'; '.join(named) or 'nothing to compare with yet'}")
    lines += ["", *(f"> {note}" for note in findings.notes), *([""] if findings.notes else [])]
    lines += ["## Variants", "", f"Base: `{study.base}`; reference: `{study.config.reference}`.", ""]
    lines += _table(
        ["variant", "what it is", "overrides"],
        [
            [name, config.about, " ".join(f"`{one}`" for one in config.overrides) or "none"]
            for name, config in study.config.variants_at(study.scale_name).items()
        ],
    )
    lines += ["", f"Of all variants: {' '.join(f'`{one}`' for one in study.scale.settings) or 'nothing'}.", ""]
    for metric in metrics:
        lines += _metric_lines(metric, rows)
    lines += ["## By what the caption says", "", *_category_lines(rows, metrics), ""]
    lines += ["## Examples", "", EXAMPLES, "", *_example_tables(findings.examples, metrics), "## Cost of a run", ""]
    lines += [*_cost_lines(rows, study.variants), "", "## The paper", "", study.config.paper, "", "## How to read it"]
    tables = (
        "Every number stands in `results.csv`; curves in `curves.csv`, examples in `examples.csv`, runs in `runs.csv`."
    )
    lines += ["", RULE, "", tables, ""]
    return "\n".join(lines)


def _metric_lines(metric: str, rows: Sequence[Row]) -> list[str]:
    mine = [row for row in rows if row["metric"] == metric and row["items"] == ALL_ITEMS]
    lines = [f"## {metric_label(metric)}", ""]
    if mine:
        first = mine[0]
        lines += [
            f"{first['num_items']:,} items. By chance {written('chance', first['chance'])}, untrained "
            f"{written('untrained', first['untrained'])}. {unit_of(metric)}",
            "",
        ]
    header = ["variant", "seeds", "mean", "difference", "corrected p", "verdict", "at equal compute"]
    cells = [
        [
            row["variant"],
            str(row["num_seeds"]),
            _interval(row, "mean", "low", "high"),
            _interval(row, "difference", "difference_low", "difference_high"),
            written("adjusted_p_value", row["adjusted_p_value"]),
            row["verdict"] or "reference",
            written("equal_compute", row["equal_compute"]),
        ]
        for row in mine
    ]
    return [*lines, *_table(header, cells), ""]


def _category_lines(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    mine = [row for row in rows if row["metric"] in metrics and row["items"] != ALL_ITEMS and row["verdict"]]
    if not mine:
        return ["No category is named, or none is met by the items."]
    cells = [
        [
            metric_label(row["metric"]),
            row["items"],
            f"{row['num_items']:,}",
            row["variant"],
            written("mean", row["mean"]),
            _interval(row, "difference", "difference_low", "difference_high"),
            row["verdict"],
        ]
        for row in mine
    ]
    return _table(["metric", "caption names", "items", "variant", "mean", "difference", "verdict"], cells)


def _example_tables(examples: Sequence[Example], metrics: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for label, rows in example_lines(examples, metrics):
        lines += [f"### {label}", "", *_table(["variant", "further to the front", "further back"], rows), ""]
    return lines or ["None yet.", ""]


def _cost_lines(rows: Sequence[Row], variants: Sequence[str]) -> list[str]:
    columns = ["steps", "images", "tokens", "parameters", "seconds"]
    first = {row["variant"]: row for row in reversed(rows)}
    cells = [[name, *(written(one, first[name][one]) for one in columns)] for name in variants if name in first]
    return _table(["variant", "steps", "crops", "image tokens", "parameters", "seconds"], cells)


def _with_difference(row: Row) -> str:
    return f"{row['variant']} ({written('difference', row['difference'])})"


def _interval(row: Mapping[str, Any], middle: str, low: str, high: str) -> str:
    if row[middle] is None:
        return ABSENT
    ends = f" [{written(low, row[low])}, {written(high, row[high])}]" if row[low] is not None else ""
    return written(middle, row[middle]) + ends


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in escaped),
    ]
