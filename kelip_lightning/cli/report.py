"""Tables for people: the plan before a run, the metrics after it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kelip_lightning.evaluation.metric_names import MATCHED_MINUS_RANDOM, is_rank, split_name
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from kelip_lightning.planning.stage_plan import Plan

LANGUAGES = {"ko": "Korean", "en": "English"}
"""Order and names of the columns; the codes are those of `data_modules.records.LANGUAGES`."""

HEADLINE = frozenset(
    {
        "image_to_text_R@1",
        "image_to_text_R@5",
        "caption_to_caption_R@1",
        "caption_to_caption_R@5",
        "zero_shot_top1",
    }
)
"""What a table after training shows; `kelip evaluate` shows everything."""

_CROSS_LINGUAL = re.compile(r"(ko|en)_to_(ko|en)_")


@dataclass(slots=True)
class Row:
    """One metric of one evaluation set in both languages."""

    set_name: str
    metric: str
    metrics: dict[str, float] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)


def rows_of(metrics: Mapping[str, float], chance: Mapping[str, float]) -> list[Row]:
    """The metrics of `evaluate_sets`, both languages of a metric in one row, sets in their order.

    Cross-lingual retrieval is put under the language of the query: ko_to_en under Korean. Keys that do not
    come from `evaluate_sets` are left out.
    """
    rows: dict[tuple[str, str], Row] = {}
    for key, value in metrics.items():
        if not key.startswith("eval/") or key.count("/") != 2:
            continue
        set_name, of_language, rest = split_name(key)
        metric = _CROSS_LINGUAL.sub("caption_to_caption_", rest)
        row = rows.setdefault((set_name, metric), Row(set_name, metric))
        for language in (of_language,) if of_language else LANGUAGES:
            row.metrics[language] = value
            if key in chance:
                row.chance[language] = chance[key]
    return list(rows.values())


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
        table.add_row(name, _spoken(row.metric), *cells, " | ".join(levels) or "–", end_section=last)
    return table


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    if metric == MATCHED_MINUS_RANDOM:
        return f"{value:+.3f}"
    return f"{value:,.1f}" if is_rank(metric) else f"{100 * value:.2f} %"


def _spoken(metric: str) -> str:
    return metric.replace("_to_", " → ").replace("_", " ")


def print_metrics(metrics: Mapping[str, float], chance: Mapping[str, float], title: str) -> None:
    """Every metric of an evaluation."""
    Console().print(metrics_table(metrics, chance, title, headline=False))


def print_result(run: RunFolder, metrics: Mapping[str, float]) -> None:
    """The main metrics of a run that has just ended, and where to look next."""
    console = Console(highlight=False)
    console.print(metrics_table(metrics, read_chance(run), f"{run.name}: final evaluation", headline=True))
    steps = {
        "curves and pictures": f"make tensorboard   (tensorboard --logdir {run.path.parent})",
        "every metric": f"kelip evaluate {run.path}",
        "try it": f'kelip predict {run.path} IMAGE --texts 사과 "a red apple"',
        "model": str(run.dual_encoder),
        "record": f"{run.path}/config.yaml, plan.yaml, environment.json, metrics.jsonl, report.json",
    }
    for what, how in steps.items():
        console.print(f"{what:<20} {how}", soft_wrap=True, markup=False)


def read_chance(run: RunFolder) -> dict[str, float]:
    """The chance levels in a run's report; empty without one."""
    if not run.report.is_file():
        return {}
    report: dict[str, Any] = json.loads(run.report.read_text(encoding="utf-8"))
    return dict(report.get("chance", {}))


def print_probabilities(texts: Sequence[str], probabilities: Sequence[float]) -> None:
    """Texts with their probabilities, the likeliest first."""
    table = Table()
    table.add_column("text")
    table.add_column("probability", justify="right")
    for probability, text in sorted(zip(probabilities, texts, strict=True), reverse=True):
        table.add_row(Text(text), f"{100 * probability:.1f} %")
    Console().print(table)


def print_plan(plan: "Plan", run: RunFolder) -> None:
    """What a run is going to do, a column per stage."""
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
