"""report.html: one file with everything in it, the font included."""

import base64
from importlib import resources

from jinja2 import Environment, StrictUndefined

from kelip_lightning.ablations.findings import Findings
from kelip_lightning.ablations.report.charts import curve_chart, difference_chart, style_of
from kelip_lightning.ablations.report.tables import result_rows
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
from kelip_lightning.drawing.fonts import FONT_FILE

_TEMPLATE = "page.html.jinja"


def html_report(study: Study, findings: Findings) -> str:
    """The whole page; every number of a table carries the row and column of results.csv that it comes from."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["written"] = lambda value, column: written(column, value)
    environment.filters["label"] = metric_label
    environment.filters["unit"] = unit_of
    template = environment.from_string((resources.files(__package__) / _TEMPLATE).read_text(encoding="utf-8"))
    rows = result_rows(findings)
    first = {row["variant"]: row for row in reversed(rows)}
    return template.render(
        study=study,
        variants=study.config.variants_at(study.scale_name),
        answers=answers(rows, study.scale.metrics),
        notes=findings.notes,
        metrics=study.scale.metrics,
        whole={
            metric: [row for row in rows if row["metric"] == metric and row["items"] == ALL_ITEMS]
            for metric in study.scale.metrics
        },
        parts=[row for row in rows if row["judged"] and row["items"] != ALL_ITEMS and row["verdict"]],
        examples=example_lines(findings.examples, study.scale.metrics),
        examples_note=EXAMPLES,
        costs=[first[name] for name in study.variants if name in first],
        charts=charts_of(study, findings),
        styles=style_of(study.variants),
        runs=findings.runs,
        rule=RULE,
        absent=ABSENT,
        font=base64.b64encode(FONT_FILE.read_bytes()).decode(),
    )


def charts_of(study: Study, findings: Findings) -> dict[str, dict[str, str]]:
    """Judged metric -> kind of chart -> SVG."""
    rows, styles = result_rows(findings), style_of(study.variants)
    charts = {}
    for metric in study.scale.metrics:
        mine = [row for row in rows if row["metric"] == metric and row["items"] == ALL_ITEMS]
        points = [point for point in findings.curves if point.metric == metric]
        label = metric_label(metric)
        charts[metric] = {
            "differences": difference_chart(mine, f"Differences from {study.config.reference}: {label}"),
            "steps": curve_chart(points, styles, f"{label} over steps", "step"),
            "tokens": curve_chart(points, styles, f"{label} over image tokens", "tokens"),
        }
    return charts
