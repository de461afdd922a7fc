"""`kelip compare NAME=RUN,RUN,... [NAME=RUN,...]`: mean and spread over seeds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import verb
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.metric_names import is_rank

if TYPE_CHECKING:
    from kelip_lightning.runs.compare import Comparison, Spread


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("groups", metavar="NAME=RUN,RUN,...", nargs="+", help="a group of runs")
    parser.add_argument("--all", action="store_true", help="print all metrics, not only the main ones")


@verb(_add_arguments)
def compare(arguments: argparse.Namespace) -> int:
    """Mean and standard deviation of finished runs, and paired differences.

    A Markdown table of the metrics of finished runs: mean and standard deviation over the runs of each group, and
    for two groups of equal size the paired difference (give the same seeds in the same order).

      kelip compare scratch=runs/scratch-0,runs/scratch-1 mae=runs/mae-0,runs/mae-1
    """
    from kelip_lightning.cli.report import HEADLINE
    from kelip_lightning.runs.compare import compare_runs

    comparisons = compare_runs(parse_groups(arguments.groups))
    wanted = ("image_to_text_R@1", "image_to_text_R@5", "_to_ko_R@1", "_to_en_R@1", *HEADLINE)
    shown = [one for one in comparisons if arguments.all or one.key.endswith(wanted)]
    print("\n".join(markdown(shown)))
    return 0


def parse_groups(words: list[str]) -> dict[str, list[Path]]:
    """Name -> run folders.

    Raises:
        ConfigError: A word is not NAME=RUN,RUN,...
    """
    groups: dict[str, list[Path]] = {}
    problems = []
    for word in words:
        name, equals, runs = word.partition("=")
        if not (name and equals and runs):
            problems.append(f"{word!r} must be NAME=RUN,RUN,...")
        groups[name] = [Path(one) for one in runs.split(",")]
    if problems:
        raise ConfigError(problems)
    return groups


def markdown(comparisons: "list[Comparison]") -> list[str]:
    """The lines of a Markdown table; shares in percent, ranks as numbers."""
    names = list(comparisons[0].groups) if comparisons else []
    paired = bool(comparisons) and comparisons[0].difference is not None
    header = ["metric", *names, *(["difference"] if paired else []), "chance"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for one in comparisons:
        percent = 1.0 if is_rank(one.key) else 100.0
        cells = [one.key.removeprefix("eval/"), *(_cell(one.groups[name], percent) for name in names)]
        if one.difference is not None:
            cells.append(_cell(one.difference, percent, sign="+"))
        cells.append("–" if one.chance is None else f"{percent * one.chance:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(spread: "Spread", percent: float, sign: str = "") -> str:
    value = f"{percent * spread.mean:{sign}.1f}"
    return value if spread.deviation is None else f"{value} ± {percent * spread.deviation:.1f}"
