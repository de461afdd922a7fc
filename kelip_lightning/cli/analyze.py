"""`kelip analyze {cross-lingual,culture,analogy} RUN FILE`: the paper's questions to a trained model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.device import add_device_argument
from kelip_lightning.cli.training import check_syntax
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kelip_lightning.analyses.records import Finding

NAME = "analyze"
HELP = "ask a trained model about languages, culture and analogies, with intervals"
DESCRIPTION = """\
cross-lingual  how near captions of one meaning lie in Korean and English
culture        which images a Korean and an English word of one meaning call up, and which pairs differ
analogy        whether image + lambda (target text - source text) finds the image that the texts describe

Tables and plots go to a folder: records as CSV and JSON, plots as PNG.

  kelip analyze culture runs/emoji experiments/analyses/culture.yaml
  kelip analyze analogy runs/emoji experiments/analyses/analogy.yaml resampling.seed=1 --output analogy-1
"""

QUESTIONS = ("cross-lingual", "culture", "analogy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`QUESTION RUN FILE.yaml [dotted.key=value ...] [--output FOLDER] [--device NAME] [--all] [--json]`."""
    parser.add_argument("question", choices=QUESTIONS, help="what is asked")
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run, for example runs/emoji")
    parser.add_argument("file", metavar="FILE.yaml", help="the settings of the analysis")
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="values that replace the file's")
    parser.add_argument("--output", metavar="FOLDER", help="where records go; RUN/analyses/QUESTION by default")
    add_device_argument(parser)
    parser.add_argument("--all", action="store_true", help="every metric in the table, not only the main ones")
    parser.add_argument("--json", action="store_true", help="print the record as JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Analyse, write, print."""
    folder = RunFolder.open(arguments.run_folder)
    check_syntax(arguments.file)
    device = choose_device(arguments.device)
    from kelip_lightning.analyses.output import as_document, prepare_folder, write_record
    from kelip_lightning.config.analysis import ANALYSES
    from kelip_lightning.config.load import load_experiment

    loaded = load_experiment(arguments.file, arguments.overrides, ANALYSES[arguments.question])
    output = Path(arguments.output or folder.path / "analyses" / arguments.question)
    prepare_folder(output)
    from kelip_lightning.analyses.analyze import analyze_run

    outcome = analyze_run(folder, loaded.experiment, device)
    document = as_document(arguments.question, folder, loaded.resolved, outcome.findings)
    write_record(output, document, outcome.plots)
    if arguments.json:
        print(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        shown = [one for one in outcome.findings.summary if one.headline or arguments.all]
        print_findings(shown, outcome.findings.statements, f"{folder.name}: {arguments.question}")
        print(f"\nrecords and plots: {output}")
    return 0


def print_findings(summary: "Sequence[Finding]", statements: "Sequence[str]", title: str) -> None:
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
