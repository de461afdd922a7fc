"""`kelip compare NAME=RUN,RUN,... [NAME=RUN,...]`: in what runs differ, and by how much."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import verb
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.metric_names import Unit, unit_of, written

if TYPE_CHECKING:
    from kelip_lightning.comparison.results import Comparison, GroupDifference, GroupValue, MetricComparison
    from kelip_lightning.comparison.settings import SettingDifference

ABSENT = "–"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("groups", metavar="NAME=RUN,RUN,...", nargs="+", help="a group of runs that differ in the seed")
    parser.add_argument("--all", action="store_true", help="print all metrics, not only the main ones")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every metric as CSV")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings, reasons and every metric as JSON")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 if the runs had other data, length or evaluation sets"
    )


@verb(_add_arguments)
def compare(arguments: argparse.Namespace) -> int:
    """In what finished runs differ, and whether their metrics do.

    Prints the settings that differ, and a Markdown table: mean and standard deviation over the runs of each group, and
    the difference from the first group, paired by seed and by evaluated item, with its 95 % interval and a verdict
    (better, worse or inconclusive). Runs of other data, length or evaluation sets are shown, and no difference between
    them is called one.

      kelip compare scratch=runs/scratch-0,runs/scratch-1 mae=runs/mae-0,runs/mae-1
      kelip compare a=runs/a b=runs/b --csv comparison.csv --json comparison.json
    """
    paths = parse_groups(arguments.groups)
    from kelip_lightning.comparison.output import write_csv, write_json
    from kelip_lightning.comparison.results import compare_groups
    from kelip_lightning.comparison.runs import read_groups

    comparison = compare_groups(read_groups(paths))
    if arguments.csv is not None:
        write_csv(arguments.csv, comparison)
    if arguments.json is not None:
        write_json(arguments.json, comparison)
    print("\n".join(_lines(comparison, every=arguments.all)))
    return 1 if arguments.strict and comparison.objections else 0


def parse_groups(words: list[str]) -> dict[str, list[Path]]:
    """Name -> run folders.

    Raises:
        ConfigError: A word is not NAME=RUN,RUN,..., or two have one name.
    """
    groups: dict[str, list[Path]] = {}
    problems = []
    for word in words:
        name, equals, runs = word.partition("=")
        if not (name and equals and all(runs.split(","))):
            problems.append(f"{word!r} must be NAME=RUN,RUN,...")
        elif name in groups:
            problems.append(f"{word!r}: there is a group {name} already; give it another name")
        groups[name] = [Path(one) for one in runs.split(",")]
    if problems:
        raise ConfigError(problems)
    return groups


def _lines(comparison: "Comparison", *, every: bool) -> Iterator[str]:
    from kelip_lightning.cli.report import COMPARED

    yield from _setting_lines(comparison)
    shown = [one for one in comparison.metrics if every or one.metric.endswith(COMPARED)]
    yield from markdown(shown or comparison.metrics)
    yield ""
    yield "± is the standard deviation over runs; [ ] is the 95 % interval of the paired difference."
    for note in comparison.notes:
        yield f"note: {note}."
    for one in comparison.objections:
        which = f"for {one.data_set}" if one.data_set else "for any metric"
        yield f"no verdict {which}: {one.reason}."


def _setting_lines(comparison: "Comparison") -> Iterator[str]:
    names = list(comparison.runs)
    if len(names) > 1:
        if comparison.between:
            yield "Settings that differ between the groups:"
            yield ""
            yield from _markdown_table(
                ["key", "role", *names],
                [
                    [f"`{one.key}`", one.role.value, *(" / ".join(one.values[name]) for name in names)]
                    for one in comparison.between
                ],
            )
        else:
            yield "The groups do not differ in any setting."
        yield ""
    for name, differences in comparison.within.items():
        if differences:
            yield f"Within {name}: {'; '.join(map(_within, differences))}"
    if any(comparison.within.values()):
        yield ""


def _within(one: "SettingDifference") -> str:
    values = ", ".join(value for found in one.values.values() for value in found)
    return f"{one.key} ({one.role.value}): {values}"


def markdown(comparisons: "Sequence[MetricComparison]") -> list[str]:
    """The lines of a Markdown table: shares in percent, their differences in points; ranks and cosines as numbers."""
    if not comparisons:
        return []
    names = list(comparisons[0].groups)
    reference, *others = [name for name in names if name == names[0] or name in comparisons[0].differences]
    columns = [f"{name} − {reference}" for name in others]
    header = ["metric", "unit", *names, *(cell for column in columns for cell in (column, "verdict")), "chance"]
    rows = []
    for one in comparisons:
        cells = [
            one.metric.removeprefix("eval/"),
            "%" if unit_of(one.metric) is Unit.share else unit_of(one.metric).value,
        ]
        cells += [_value(one.metric, one.groups[name]) for name in names]
        for name in others:
            cells += [_difference(one.metric, one.differences[name]), one.differences[name].verdict or ABSENT]
        rows.append([*cells, written(one.metric, one.chance)])
    return list(_markdown_table(header, rows))


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    cut = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    yield f"| {' | '.join(header)} |"
    yield f"|---|---|{'---:|' * (len(header) - 2)}"
    yield from (f"| {' | '.join(row)} |" for row in cut)


def _value(metric: str, value: "GroupValue") -> str:
    text = written(metric, value.mean)
    return text if value.deviation is None else f"{text} ± {written(metric, value.deviation)}"


def _difference(metric: str, difference: "GroupDifference") -> str:
    text = written(metric, difference.mean, signed=True)
    if difference.low is not None:
        low, high = (written(metric, end, signed=True) for end in (difference.low, difference.high))
        return f"{text} [{low}, {high}]"
    return text if difference.deviation is None else f"{text} ± {written(metric, difference.deviation)}"
