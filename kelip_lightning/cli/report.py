"""Tables: the plan before a run, the metrics after it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kelip_lightning.evaluation.tasks import MATCHED_MINUS_RANDOM
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from kelip_lightning.planning.stage_plan import Plan

LANGUAGES = {"ko": "Korean", "en": "English"}
"""Column names in order; keys as in `data_modules.records.LANGUAGES`."""

HEADLINE = frozenset(
    {
        "image_to_text_R@1",
        "image_to_text_R@5",
        "caption_to_caption_R@1",
        "caption_to_caption_R@5",
        "zero_shot_top1",
    }
)
"""Metrics in the table after training; `kelip evaluate` prints all."""

_CROSS_LINGUAL = {"ko_to_en_": "ko", "en_to_ko_": "en"}


@dataclass(slots=True)
class Row:
    """One metric of one evaluation set in both languages."""

    set_name: str
    metric: str
    metrics: dict[str, float] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)


def rows_of(metrics: Mapping[str, float], chance: Mapping[str, float]) -> list[Row]:
    """The metrics of `evaluate_sets`, both languages of a metric in one row.

    Cross-lingual retrieval is in the column of the query's language: ko_to_en under Korean. Other keys are skipped.
    """
    rows: dict[tuple[str, str], Row] = {}
    for key, value in metrics.items():
        parts = key.split("/")
        if len(parts) != 3 or parts[0] != "eval":
            continue
        set_name, metric, languages = _split(parts[1], parts[2])
        row = rows.setdefault((set_name, metric), Row(set_name, metric))
        for language in languages:
            row.metrics[language] = value
            if key in chance:
                row.chance[language] = chance[key]
    return list(rows.values())


def _split(set_name: str, metric: str) -> tuple[str, str, Sequence[str]]:
    """Set, metric, and languages of the columns; both for a metric of both languages."""
    if metric == MATCHED_MINUS_RANDOM:
        return set_name, metric, tuple(LANGUAGES)
    for prefix, language in _CROSS_LINGUAL.items():
        if metric.startswith(prefix):
            return set_name, f"caption_to_caption_{metric.removeprefix(prefix)}", (language,)
    name, _, language = set_name.rpartition("_")
    return name, metric, (language,)


def metrics_table(metrics: Mapping[str, float], chance: Mapping[str, float], title: str, *, headline: bool) -> Table:
    """Metric, Korean, English, chance; shares in percent, ranks as numbers."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = "Korean, English: language of captions or class names; of the query in caption → caption"
    table.add_column("evaluation set")
    table.add_column("metric")
    for name in (*LANGUAGES.values(), "chance"):
        table.add_column(name, justify="right")
    rows = [row for row in rows_of(metrics, chance) if not headline or row.metric in HEADLINE]
    for index, row in enumerate(rows):
        first = index == 0 or rows[index - 1].set_name != row.set_name
        last = index + 1 == len(rows) or rows[index + 1].set_name != row.set_name
        cells = [_number(row.metric, row.metrics.get(language)) for language in LANGUAGES]
        levels = list(dict.fromkeys(_number(row.metric, level) for level in row.chance.values()))
        name = row.set_name if first else ""
        table.add_row(name, _label(row.metric), *cells, " | ".join(levels) or "–", end_section=last)
    return table


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    if metric == MATCHED_MINUS_RANDOM:
        return f"{value:+.3f}"
    return f"{value:,.1f}" if metric.endswith("rank") else f"{100 * value:.2f} %"


def _label(metric: str) -> str:
    return metric.replace("_to_", " → ").replace("_", " ")


def print_metrics(metrics: Mapping[str, float], chance: Mapping[str, float], title: str) -> None:
    """Print all metrics of an evaluation."""
    Console().print(metrics_table(metrics, chance, title, headline=False))


def print_result(run: RunFolder, metrics: Mapping[str, float]) -> None:
    """Print the main metrics of a finished run, and its files and next commands."""
    console = Console(highlight=False)
    console.print(metrics_table(metrics, read_chance(run), f"{run.name}: final evaluation", headline=True))
    steps = {
        "curves and images": f"make tensorboard   (tensorboard --logdir {run.path.parent})",
        "all metrics": f"kelip evaluate {run.path}",
        "prediction": f'kelip predict {run.path} IMAGE --texts 사과 "a red apple"',
        "model": str(run.dual_encoder),
        "record": f"{run.path}/config.yaml, plan.yaml, environment.json, metrics.jsonl, report.json",
    }
    for what, how in steps.items():
        console.print(f"{what:<20} {how}", soft_wrap=True, markup=False)


def read_chance(run: RunFolder) -> dict[str, float]:
    """The chance levels in a run's report; empty without a report."""
    if not run.report.is_file():
        return {}
    report: dict[str, Any] = json.loads(run.report.read_text(encoding="utf-8"))
    return dict(report.get("chance", {}))


def print_probabilities(texts: Sequence[str], probabilities: Sequence[float]) -> None:
    """Print texts with their probabilities, highest first."""
    table = Table()
    table.add_column("text")
    table.add_column("probability", justify="right")
    for probability, text in sorted(zip(probabilities, texts, strict=True), reverse=True):
        table.add_row(Text(text), f"{100 * probability:.1f} %")
    Console().print(table)


def print_plan(plan: "Plan", run: RunFolder) -> None:
    """Print the derived values of a run, one column per stage."""
    table = Table(title=f"{run.path}", title_justify="left")
    table.add_column("plan")
    for stage in plan.stages:
        table.add_column(stage, justify="right")
    columns = [plan.to_dict()["stages"][stage] for stage in plan.stages]
    for key in columns[0] if columns else []:
        cells = [_cell(column[key]) for column in columns]
        if set(cells) != {"–"}:
            table.add_row(key.replace("_", " "), *cells)
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {number:,}" for name, number in value.items())
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)
