"""Tables of `kelip evaluate`: one model's metrics, several models beside one another, and an evaluation file's own."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kelip_lightning.cli.report import LANGUAGES, format_metric, metrics_table
from kelip_lightning.config.evaluation import ResultTableConfig, published_rows
from kelip_lightning.evaluation.metric_names import join_name, split_name

if TYPE_CHECKING:
    from kelip_lightning.config.evaluation import EvaluationExperiment, PublishedConfig
    from kelip_lightning.inference.evaluate import Results

_FILE_WIDTH = 1000
"""Columns of text for tables that are not printed on a terminal."""


def print_evaluations(results: "Results", experiment: "EvaluationExperiment") -> None:
    """Print the tables, what was left out, metrics on which tie rules differ, and protocols of published results."""
    console = Console()
    if not console.is_terminal:  # a file has no width that a wide table would have to fit
        console = Console(width=_FILE_WIDTH)
    titles = titles_of(list(results.models))
    columns = {titles[name]: one.metrics for name, one in results.models.items()}
    published = published_rows(experiment.published)
    tables = experiment.tables.values()
    if not tables and len(columns) == 1:
        ((name, metrics),) = columns.items()
        console.print(metrics_table(metrics, results.chance, name, headline=False))
    elif not tables:
        console.print(comparison_table(columns, results.chance))
    for table in tables or published_tables(results.chance, published):
        console.print(result_table(table, columns | published))
    for line in [*notes_of(results), *protocols_of(experiment.published)]:
        console.print(line, markup=False, soft_wrap=True)


def titles_of(models: Sequence[str]) -> dict[str, str]:
    """Model, as given -> its title: the name of a folder, unless two have the same; else as given."""
    names = {model: Path(model).resolve().name if Path(model).is_dir() else model for model in models}
    return {model: name if list(names.values()).count(name) == 1 else model for model, name in names.items()}


def notes_of(results: "Results") -> list[str]:
    """Sentences below the tables."""
    lines = [f"not evaluated: {name}, as {file} does not exist" for name, file in results.missing.items()]
    lines += results.notes
    for model, one in results.models.items():
        lines += [
            f"{model}: {metric} is {format_metric(metric, rules['pessimistic'])} if ties count as wrong, "
            f"{format_metric(metric, rules['topk'])} by the rule topk"
            for metric, rules in one.tie_differences.items()
        ]
    return lines


def protocols_of(published: Sequence["PublishedConfig"]) -> list[str]:
    """What the published results say of their protocol, each sentence once per model and source."""
    return list(dict.fromkeys(f"{one.name}: {one.protocol}" for one in published if one.protocol))


def published_tables(evaluated: Iterable[str], published: Mapping[str, Mapping[str, float]]) -> list[ResultTableConfig]:
    """For each evaluated set with published results a table of those of its metrics that have any.

    Args:
        evaluated: The metrics of the evaluated sets.
        published: As of `published_rows`.
    """
    known = {metric for metrics in published.values() for metric in metrics}
    columns: dict[str, dict[str, str]] = {}
    for metric in evaluated:
        if metric in known:
            data_set, language, rest = split_name(metric)
            of_language = language is not None and metric == join_name(data_set, language, rest)
            template = join_name(data_set, "{language}", rest) if of_language else metric
            columns.setdefault(data_set, {})[rest] = template
    return [
        ResultTableConfig(title=f"{data_set}, with published results", columns=found)
        for data_set, found in columns.items()
    ]


def comparison_table(models: Mapping[str, Mapping[str, float]], chance: Mapping[str, float]) -> Table:
    """A row per metric of the evaluated sets, a column per model."""
    table = Table(title="Evaluation", title_justify="left")
    for heading in ("evaluation set", "metric", "language"):
        table.add_column(heading)
    for name in (*models, "chance"):
        table.add_column(Text(name), justify="right")
    for metric, level in chance.items():
        data_set, language, rest = split_name(metric)
        cells = [format_metric(rest, one.get(metric)) for one in models.values()]
        table.add_row(data_set, rest, LANGUAGES.get(language or "", "both"), *cells, format_metric(rest, level))
    return table


def result_table(config: ResultTableConfig, models: Mapping[str, Mapping[str, float]]) -> Table:
    """A row per model and language with any value, a column per configured metric; percent.

    The mean is over the columns in which the row has a value; their number follows in brackets.
    """
    table = Table(title=config.title, title_justify="left")
    by_language = any("{language}" in metric for metric in config.columns.values())
    for heading in ("model", *(("language",) if by_language else ())):
        table.add_column(heading)
    for heading in (*config.columns, *(("mean",) if config.mean else ())):
        table.add_column(heading, justify="right")
    for name, metrics in models.items():
        for language in LANGUAGES if by_language else ("",):
            keys = [metric.replace("{language}", language) for metric in config.columns.values()]
            values = [metrics.get(key) for key in keys]
            found = [value for value in values if value is not None]
            if not found:
                continue
            cells = [format_metric(key, value) for key, value in zip(keys, values, strict=True)]
            if config.mean:
                cells.append(f"{format_metric(keys[0], sum(found) / len(found))} ({len(found)})")
            table.add_row(Text(name), *((LANGUAGES[language],) if by_language else ()), *cells)
    return table
