"""Tables: the plan before a run, the metrics after it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kelip_lightning.evaluation.metric_names import (
    KNN,
    LINEAR_PROBE,
    MATCHED_MINUS_RANDOM,
    at_k,
    is_rank,
    join_name,
    split_name,
)
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from kelip_lightning.planning.stage_plan import Plan

LANGUAGES = {"ko": "Korean", "en": "English"}
"""Column names in order; keys as in `data_modules.languages.LANGUAGES`."""

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
COMPARED = ("_to_ko_R@1", "_to_en_R@1", *HEADLINE)
"""How the names of metrics end that `kelip compare` prints; `--all` prints all."""

_CROSS_LINGUAL = re.compile(r"(ko|en)_to_(ko|en)_")


Rows = dict[tuple[str, str], dict[str, float]]
"""(evaluation set, metric) -> language of the column -> value."""


def rows_of(metrics: Mapping[str, float]) -> Rows:
    """The metrics of `evaluate_sets`, both languages of a metric in one row; other keys are skipped.

    Cross-lingual retrieval is in the column of the query's language: ko_to_en under Korean.
    """
    rows: Rows = {}
    for key, value in metrics.items():
        if key.startswith("eval/") and key.count("/") == 2:
            set_name, language, metric = split_name(key)
            row = rows.setdefault((set_name, _CROSS_LINGUAL.sub("caption_to_caption_", metric)), {})
            row.update(dict.fromkeys((language,) if language else LANGUAGES, value))
    return rows


def metrics_table(metrics: Mapping[str, float], chance: Mapping[str, float], title: str, *, headline: bool) -> Table:
    """Metric, Korean, English, chance; shares in percent, ranks as numbers."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = "Korean, English: language of captions or class names; of the query in caption → caption"
    table.add_column("evaluation set")
    table.add_column("metric")
    for name in (*LANGUAGES.values(), "chance"):
        table.add_column(name, justify="right")
    rows = {row: cells for row, cells in rows_of(metrics).items() if not headline or row[1] in HEADLINE}
    levels, names = rows_of(chance), [set_name for set_name, _ in rows]
    for index, ((name, metric), values) in enumerate(rows.items()):
        cells = [format_metric(metric, values.get(language)) for language in LANGUAGES]
        by_chance = dict.fromkeys(format_metric(metric, level) for level in levels.get((name, metric), {}).values())
        label = "" if names[index - 1 : index] == [name] else name
        is_last = names[index + 1 : index + 2] != [name]
        table.add_row(label, _label(metric), *cells, " | ".join(by_chance) or "–", end_section=is_last)
    return table


def format_metric(metric: str, value: float | None) -> str:
    """Shares in percent, ranks and differences of cosines as numbers; `None`: a dash."""
    if value is None:
        return "–"
    if metric.endswith(MATCHED_MINUS_RANDOM):
        return f"{value:+.3f}"
    return f"{value:,.1f}" if is_rank(metric) else f"{100 * value:.2f} %"


def _label(metric: str) -> str:
    return metric.replace("_to_", " → ").replace("_", " ")


def print_result(run: RunFolder, metrics: Mapping[str, float]) -> None:
    """Print the main metrics of a finished run, and its files and next commands."""
    console = Console(highlight=False)
    print_probes(run)
    chance = read_report(run).get("chance", {})
    console.print(metrics_table(metrics, chance, f"{run.name}: final evaluation", headline=True))
    steps = {
        "curves and images": f"make tensorboard   (tensorboard --logdir {run.path.parent}, page Custom Scalars)",
        "all metrics": f"kelip evaluate {run.path}",
        "prediction": f'kelip predict {run.path} IMAGE --texts 사과 "a red apple"',
        "model": str(run.dual_encoder),
        "record": f"{run.path}/config.yaml, plan.yaml, environment.json, metrics.jsonl, report.json, log.txt",
    }
    for what, how in steps.items():
        console.print(f"{what:<20} {how}", soft_wrap=True, markup=False)


def print_probes(run: RunFolder) -> None:
    """Print the last probes of a run's MAE pre-training; nothing without any."""
    report = run.stage("mae").report
    if not report.is_file():
        return
    found = json.loads(report.read_text(encoding="utf-8"))
    table = Table(title=f"{run.name}: image encoder after MAE pre-training, step {found['step']}", title_justify="left")
    table.add_column("labelled set")
    for heading in ("k-NN top 1", "linear probe top 1", "chance"):
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(split_name(metric)[0] for metric in found["metrics"]):
        knn, linear = (at_k(join_name(name, None, task), 1) for task in (KNN, LINEAR_PROBE))
        values = (found["metrics"][knn], found["metrics"][linear], found["chance"][knn])
        table.add_row(name, *(f"{100 * value:.2f} %" for value in values))
    Console(highlight=False).print(table)


def read_report(run: RunFolder) -> dict[str, Any]:
    """A run's report, with `metrics` and `chance`; empty without a file, as in MAE pre-training alone."""
    return json.loads(run.report.read_text(encoding="utf-8")) if run.report.is_file() else {}


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
