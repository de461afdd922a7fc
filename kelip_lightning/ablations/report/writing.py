"""Writes a study's report: Markdown and HTML from one context, tables, charts, and TensorBoard's hyperparameters."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from kelip_lightning.ablations.collect import CurvePoint, LossPoint, StudyReport
from kelip_lightning.ablations.report.claims import claim_sections
from kelip_lightning.ablations.report.tables import (
    ABSENT,
    QUICK,
    Row,
    answers,
    axis_title,
    example_lines,
    metric_label,
    result_rows,
    summary,
    unit_after,
    unit_sentence,
    write_tables,
    written,
)
from kelip_lightning.ablations.results import ALL_ITEMS
from kelip_lightning.ablations.study import Study
from kelip_lightning.drawing.charts import ChartRow, Curve, curve_chart, difference_chart, style_of
from kelip_lightning.drawing.fonts import FONT_FILE
from kelip_lightning.evaluation.metric_names import Unit, unit_of
from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.power import POWER

EXAMPLES = (
    "The captions or classes with the largest change of rank from the reference's: median over seeds, reference → "
    "variant. They are selected extremes; the tables give the size of a difference."
)
RULE = (
    "Better or worse: the p-value of the paired difference, corrected by Dunnett's step-down method for the variants "
    f"of the same metric and items, is below {ALPHA:g}; else inconclusive. Seeds and items are crossed: the variance "
    "of the difference is the part of the seeds (pooled over all runs of the study, and raised where the variant's own "
    "is larger) + the part of the items (items with the same correct answer are one group) - the residual part, which "
    "both contain. Brackets are 95 % intervals, not corrected for the number of variants; the verdict is. A claim is "
    "corrected for its own variants; metrics, categories and claims are not corrected for one another."
)

LOW_POWER = (
    f"Detectable: the smallest true difference that this study finds with a power of {POWER:.0%}, from its variances. "
    "Low power: a difference that was found and is smaller than that. It is likely to be larger than the true one, "
    "because of small differences only the overestimated ones are found; more seeds (--seeds) reduce this."
)
LOSSES = {
    "mae": "Reconstruction loss of MAE pre-training, on training batches.",
    "contrastive": "Loss of contrastive training, on training batches; with self-supervision the sum of both losses.",
}
MOST_POINTS = 60
"""Points of a loss curve; each is the mean of as many neighbouring log entries as that needs."""

_VERDICT_COLOURS = {"better": "#00734f", "worse": "#b23a00", "inconclusive": "#666666"}


def write_report(study: Study, report: StudyReport) -> Path:
    """Write report.md, report.html, the tables, plots/ and tensorboard/ over an earlier report; returns the folder."""
    folder = study.folder
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    write_tables(folder, study, report)
    context = _context(study, report)
    for name in ("report.md", "report.html"):
        (folder / name).write_text(_render(name, context), encoding="utf-8")
    for charts in (*context["charts"].values(), context["losses"]):
        for chart in charts:
            (folder / chart.file).write_text(chart.svg + "\n", encoding="utf-8")
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
    environment.filters["written"] = lambda value, column, metric="": written(column, value, metric)
    environment.filters["label"] = metric_label
    environment.filters["unit"] = unit_sentence
    environment.filters["after"] = unit_after
    template = (resources.files(__package__) / f"{name}.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)


def _context(study: Study, report: StudyReport) -> dict[str, Any]:
    """What the templates show."""
    rows, metrics = result_rows(report), study.scale.metrics
    whole = {
        metric: [row for row in rows if row["metric"] == metric and row["items"] == ALL_ITEMS] for metric in metrics
    }
    first = {row["variant"]: row for row in reversed(rows)}
    styles, found = style_of(study.variants), answers(rows, metrics)
    return {
        "study": study,
        "variants": study.config.variants_at(study.scale_name),
        "answers": found,
        "claims": claim_sections(report.claims, study.scale.claims),
        "summary": summary(found, study.config.reference),
        "has_low_power": any(row["low_power"] for answer in found for row, _ in answer.verdicts),
        "notes": report.notes,
        "metrics": metrics,
        "whole": whole,
        "parts": [row for row in rows if row["judged"] and row["items"] != ALL_ITEMS and row["verdict"]],
        "examples": example_lines(report.examples, metrics),
        "examples_note": EXAMPLES,
        "costs": [first[name] for name in study.variants if name in first],
        "charts": {metric: list(_metric_charts(metric, whole[metric], study, report, styles)) for metric in metrics},
        "losses": list(_loss_charts(report.losses, styles)),
        "styles": styles,
        "runs": report.runs,
        "rule": RULE,
        "low_power": LOW_POWER,
        "absent": ABSENT,
        "quick": QUICK,
        "font": base64.b64encode(FONT_FILE.read_bytes()).decode(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart of the report."""

    svg: str
    file: str
    """Its place in the report's folder."""
    title: str
    """Alternative text."""
    caption: str


def _metric_charts(
    metric: str, rows: Sequence[Row], study: Study, report: StudyReport, styles: Mapping[str, tuple[str, str]]
) -> Iterator[Chart]:
    """Differences from the reference, and the metric over steps and over image tokens with chance and untrained."""
    points, label = [point for point in report.curves if point.metric == metric], metric_label(metric)
    stem, reference = metric.removeprefix("eval/").replace("/", "-").replace("@", ""), study.config.reference
    unit = "points" if unit_of(metric) is Unit.share else axis_title(metric)
    title = f"Differences from {reference}: {label}"
    yield Chart(
        svg=difference_chart(_differences(metric, rows), title, f"difference from {reference}, {unit}"),
        file=f"plots/{stem}-differences.svg",
        title=title,
        caption=f"Paired difference from {reference} ({unit}), with its 95 % interval.",
    )
    scale = _scale_of(metric)
    levels = {name: scale * value for name, value in report.references.get(metric, {}).items() if value is not None}
    captions = {
        "step": "Over steps of contrastive training; thin: single seeds; grey: chance and the untrained model.",
        "tokens": "The same over image tokens, MAE pre-training included: equal compute is equal distance.",
    }
    for axis, name in (("step", "steps of contrastive training"), ("tokens", "image tokens")):
        kind = "steps" if axis == "step" else axis
        title = f"{label} over {kind if axis == 'step' else name}"
        yield Chart(
            svg=curve_chart(_curves(points, axis, scale), styles, title, (name, axis_title(metric)), levels=levels),
            file=f"plots/{stem}-{kind}.svg",
            title=title,
            caption=captions[axis],
        )


def _loss_charts(points: Sequence[LossPoint], styles: Mapping[str, tuple[str, str]]) -> Iterator[Chart]:
    """One chart per stage that any run has."""
    for stage, caption in LOSSES.items():
        mine = [point for point in points if point.stage == stage]
        curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
        for point in mine:
            curves.setdefault(point.variant, {}).setdefault(point.seed, []).append((point.step, point.loss))
        if not mine:
            continue
        thinned = {variant: [_thinned(curve) for curve in seeds.values()] for variant, seeds in curves.items()}
        title = f"Training loss, {stage}"
        shown = {variant: style for variant, style in styles.items() if variant in thinned}
        yield Chart(
            svg=curve_chart(thinned, shown, title, ("steps", "loss"), from_zero=False),
            file=f"plots/loss-{stage}.svg",
            title=title,
            caption=f"{caption} Comparable only between variants with the same loss, crops and batch size.",
        )


def _thinned(curve: Curve) -> Curve:
    """Means of neighbouring points, at most `MOST_POINTS` of them."""
    size = math.ceil(len(curve) / MOST_POINTS)
    parts = [np.mean(curve[start : start + size], axis=0) for start in range(0, len(curve), size)]
    return [(float(step), float(loss)) for step, loss in parts]


def _scale_of(metric: str) -> float:
    """Shares are drawn in percent, other units as they are."""
    return 100.0 if unit_of(metric) is Unit.share else 1.0


def _differences(metric: str, rows: Sequence[Row]) -> list[ChartRow]:
    """In points, or for cosines in their own unit."""
    scale = _scale_of(metric)
    return [
        ChartRow(
            label=f"{row['variant']}: {row['verdict']}{' (low power)' if row['low_power'] else ''}",
            value=scale * row["difference"],
            low=None if row["difference_low"] is None else scale * row["difference_low"],
            high=None if row["difference_high"] is None else scale * row["difference_high"],
            colour=_VERDICT_COLOURS[row["verdict"]],
        )
        for row in rows
        if row["difference"] is not None
    ]


def _curves(points: Sequence[CurvePoint], axis: str, scale: float) -> dict[str, list[Curve]]:
    """Variant -> per seed: (`step` or `tokens`, scaled value) of each evaluation."""
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for point in points:
        curve = curves.setdefault(point.variant, {}).setdefault(point.seed, [])
        curve.append((getattr(point, axis), scale * point.value))
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
