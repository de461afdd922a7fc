"""Writes a study's report: Markdown and HTML from one context, tables, charts, and TensorBoard's hyperparameters."""

import base64
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from kelip_lightning.ablations.collect import CurvePoint, StudyReport
from kelip_lightning.ablations.report.tables import (
    ABSENT,
    Row,
    answers,
    example_lines,
    metric_label,
    result_rows,
    unit_of,
    write_tables,
    written,
)
from kelip_lightning.ablations.results import ALL_ITEMS
from kelip_lightning.ablations.study import Study
from kelip_lightning.drawing.charts import ChartRow, Curve, curve_chart, difference_chart, style_of
from kelip_lightning.drawing.fonts import FONT_FILE
from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.significance import NUM_RESAMPLES

EXAMPLES = (
    "The captions or classes with the largest change of rank from the reference's: median over seeds, reference → "
    "variant. They are selected extremes; the tables give the size of a difference."
)
RULE = (
    f"Better or worse: the Holm-corrected p-value of the paired difference is below {ALPHA:g}; else inconclusive. "
    "The interval is mean ± the root of the sum of two squares: Student's t times the standard error over seeds (the "
    "larger of the variant's own and the one pooled over all runs of the study), and t times the standard error over "
    f"items, from {NUM_RESAMPLES:,} bootstrap samples in which both runs have the same items and items with the same "
    "correct answer are resampled together. Brackets are 95 % intervals, not corrected for the number of variants; "
    "the verdict is."
)

_VERDICT_COLOURS = {"better": "#00734f", "worse": "#b23a00", "inconclusive": "#666666"}


def write_report(study: Study, report: StudyReport) -> Path:
    """Write report.md, report.html, the tables, plots/ and tensorboard/ over an earlier report; returns the folder."""
    folder = study.folder
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    write_tables(folder, study, report)
    context = _context(study, report)
    for name in ("report.md", "report.html"):
        (folder / name).write_text(_render(name, context), encoding="utf-8")
    for metric, charts in context["charts"].items():
        stem = metric.removeprefix("eval/").replace("/", "-").replace("@", "")
        for kind, svg in charts.items():
            (folder / "plots" / f"{stem}-{kind}.svg").write_text(svg + "\n", encoding="utf-8")
    _write_hyperparameters(folder / "tensorboard", study, report)
    return folder


def _render(name: str, context: dict[str, Any]) -> str:
    environment = Environment(
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["written"] = lambda value, column: written(column, value)
    environment.filters["label"] = metric_label
    environment.filters["unit"] = unit_of
    template = (resources.files(__package__) / f"{name}.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)


def _context(study: Study, report: StudyReport) -> dict[str, Any]:
    """What the templates show."""
    rows, metrics = result_rows(report), study.scale.metrics
    whole = {
        metric: [row for row in rows if row["metric"] == metric and row["items"] == ALL_ITEMS] for metric in metrics
    }
    first = {row["variant"]: row for row in reversed(rows)}
    styles = style_of(study.variants)
    charts = {}
    for metric in metrics:
        points, label = [point for point in report.curves if point.metric == metric], metric_label(metric)
        charts[metric] = {
            "differences": difference_chart(
                _differences(whole[metric]), f"Differences from {study.config.reference}: {label}"
            ),
            "steps": curve_chart(_curves(points, "step"), styles, f"{label} over steps", "steps"),
            "tokens": curve_chart(_curves(points, "tokens"), styles, f"{label} over image tokens", "image tokens"),
        }
    return {
        "study": study,
        "variants": study.config.variants_at(study.scale_name),
        "answers": answers(rows, metrics),
        "notes": report.notes,
        "metrics": metrics,
        "whole": whole,
        "parts": [row for row in rows if row["judged"] and row["items"] != ALL_ITEMS and row["verdict"]],
        "examples": example_lines(report.examples, metrics),
        "examples_note": EXAMPLES,
        "costs": [first[name] for name in study.variants if name in first],
        "charts": charts,
        "styles": styles,
        "runs": report.runs,
        "rule": RULE,
        "absent": ABSENT,
        "font": base64.b64encode(FONT_FILE.read_bytes()).decode(),
    }


def _differences(rows: Sequence[Row]) -> list[ChartRow]:
    """In points."""
    return [
        ChartRow(
            label=f"{row['variant']}: {row['verdict']}",
            value=100 * row["difference"],
            low=None if row["difference_low"] is None else 100 * row["difference_low"],
            high=None if row["difference_high"] is None else 100 * row["difference_high"],
            colour=_VERDICT_COLOURS[row["verdict"]],
        )
        for row in rows
        if row["difference"] is not None
    ]


def _curves(points: Sequence[CurvePoint], axis: str) -> dict[str, list[Curve]]:
    """Variant -> per seed: (`step` or `tokens`, percent) of each evaluation."""
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for point in points:
        curve = curves.setdefault(point.variant, {}).setdefault(point.seed, [])
        curve.append((getattr(point, axis), 100 * point.value))
    return {variant: list(seeds.values()) for variant, seeds in curves.items()}


def _write_hyperparameters(folder: Path, study: Study, report: StudyReport) -> None:
    """One entry per run on TensorBoard's HParams page: variant, seed, and the last value of every judged metric."""
    for run in study.runs:
        mine = [one for one in report.curves if (one.variant, one.seed) == (run.variant, run.seed)]
        if not mine:
            continue
        last = {
            f"final/{one.metric.removeprefix('eval/')}": one.value for one in sorted(mine, key=lambda one: one.step)
        }
        place = folder / f"{run.variant}-{run.seed}"
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(place)) as writer:
            # Not add_hparams, which makes a second events file.
            for summary in hparams({"variant": run.variant, "seed": run.seed}, last):
                writer.file_writer.add_summary(summary)
            for name, value in last.items():
                writer.add_scalar(name, value, mine[-1].step)
