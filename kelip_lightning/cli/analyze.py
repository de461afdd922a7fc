"""`kelip analyze {cross-lingual,culture,analogy} RUN ... FILE`: the paper's analyses of a trained model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import add_device_argument, verb
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.errors import ConfigError
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kelip_lightning.analyses.output import Finding

QUESTIONS = ("cross-lingual", "culture", "analogy")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", choices=QUESTIONS, help="the analysis")
    parser.add_argument(
        "words",
        metavar="RUN",
        nargs="+",
        help="folders of finished runs, settings of the analysis (FILE.yaml), and values that replace its own "
        "(dotted.key=value), in this order; several runs, which differ in the seed, for analogy and for culture with "
        "trained_words",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="output folder (default, for one run: RUN/analyses/QUESTION)"
    )
    add_device_argument(parser)
    parser.add_argument("--all", action="store_true", help="print all metrics, not only the main ones")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


@verb(_add_arguments)
def analyze(arguments: argparse.Namespace) -> int:
    """Analyse a trained model: languages, culture, analogies; with confidence intervals.

    cross-lingual  similarity of Korean and English captions of the same meaning
    culture        images retrieved by Korean and English words of the same meaning, and the pairs that differ
    analogy        retrieval with image + lambda (target text - source text)

    Writes tables as CSV and JSON, and plots as PNG.

      kelip analyze culture runs/emoji experiments/analyses/culture.yaml
      kelip analyze culture runs/emoji-planted experiments/analyses/culture_trained_words.yaml
      kelip analyze analogy runs/emoji experiments/analyses/analogy.yaml resampling.seed=1 --output analogy-1
      kelip analyze analogy runs/emoji-0 runs/emoji-1 experiments/analyses/analogy.yaml --output analogy-seeds
    """
    paths, file, overrides = parse_words(arguments.words)
    runs = [RunFolder.open(path) for path in paths]
    if len(runs) > 1 and arguments.output is None:
        raise ConfigError([f"{len(runs)} runs have no folder in common for the results: name one with --output FOLDER"])
    from kelip_lightning.config.analysis import ANALYSES
    from kelip_lightning.config.load import load_experiment

    loaded = load_experiment(file, overrides, ANALYSES[arguments.question])
    device = choose_device(arguments.device)
    from kelip_lightning.analyses.output import as_document, prepare_folder, write_record

    output = Path(arguments.output or runs[0].analyses / arguments.question)
    prepare_folder(output)
    from kelip_lightning.analyses.several_runs import analyze_runs

    outcome = analyze_runs(runs, loaded.experiment, device)
    document = as_document(arguments.question, runs, loaded.resolved, outcome.findings)
    write_record(output, document, outcome.plots)
    if arguments.json:
        print(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        shown = [one for one in outcome.findings.summary if one.headline or arguments.all]
        _print_findings(
            shown, outcome.findings.statements, f"{', '.join(run.name for run in runs)}: {arguments.question}"
        )
        print(f"\nrecords and plots: {output}")
    return 0


def parse_words(words: "Sequence[str]") -> tuple[list[str], str, list[str]]:
    """The run folders, the file, and the overrides.

    Raises:
        ConfigError: There is no file, or no run before it.
    """
    place = next((place for place, word in enumerate(words) if word.endswith((".yaml", ".yml"))), None)
    if place is None:
        raise ConfigError([f"no FILE.yaml among {' '.join(words)}: name the settings of the analysis after the run"])
    if place == 0:
        raise ConfigError([f"no run before {words[0]}: name the folder of a finished run first"])
    return list(words[:place]), words[place], list(words[place + 1 :])


def _print_findings(summary: "Sequence[Finding]", statements: "Sequence[str]", title: str) -> None:
    """A table of metrics, and the statements below it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in ("subject", "measure"):
        table.add_column(column)
    for column in ("value", "95 % interval", "chance", "items"):
        table.add_column(column, justify="right")
    for one in summary:
        interval = one.interval
        bounds = f"{interval.low:z.3f} to {interval.high:z.3f}"
        chance = "–" if one.chance is None else f"{one.chance:.4f}"
        table.add_row(Text(one.subject), Text(one.measure), f"{interval.value:z.3f}", bounds, chance, f"{one.count:,}")
    console = Console(highlight=False)
    console.print(table)
    for statement in statements:
        console.print(statement, markup=False, soft_wrap=True)
