"""`kelip init FOLDER|FILE...`: look at data, and write an experiment for it."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from data_modules.sources.config import TABLE_ENDINGS
from kelip_lightning.cli.verb import verb

if TYPE_CHECKING:
    from data_modules.preparation.survey.survey import DataSurvey
    from kelip_lightning.scaffolding.machine import Machine
    from kelip_lightning.scaffolding.writing import Written

OUTPUT = Path("experiments")
"""Folder of the experiments' folders."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="FOLDER|FILE",
        type=Path,
        nargs="+",
        help="a folder with the data; or its tar files; or its tables, and the folders of their images",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"folder to write (default: {OUTPUT}/NAME)")
    parser.add_argument("--name", help="name of the run (default: that of the first folder or file)")
    parser.add_argument("--force", action="store_true", help="replace an experiment that is there")


@verb(_add_arguments)
def init(arguments: argparse.Namespace) -> int:
    """Look at data, and write a commented experiment for it that runs as it is.

    Finds the format (tar shards of img2dataset, CSV, TSV, JSONL, parquet, a Hugging Face dataset or image folder,
    pictures alone), the columns of images and captions, the languages by script, encoding and separator, sizes of
    images and broken items, in a sample of 500 rows. Keeps a few rows for evaluation. Writes base.yaml, mae.yaml,
    contrastive.yaml and pretrain.yaml, sized to this machine, with what was assumed as comments. Nothing is asked.

      kelip init /data/flowers
      kelip init pairs.csv /data/pictures --name flowers
      kelip pretrain experiments/flowers/pretrain.yaml

    See docs/own-data.md.
    """
    from kelip_lightning.errors import ConfigError

    name = arguments.name or default_name(arguments.paths[0])
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ConfigError([f"--name {name!r} is a folder name: use letters, digits and - _ . + = only"])
    folder = arguments.output or OUTPUT / name
    from kelip_lightning.scaffolding.writing import refuse_existing, write_experiment

    if not arguments.force:
        refuse_existing(folder)
    from data_modules.preparation.survey.survey import survey_data
    from kelip_lightning.scaffolding.machine import this_machine

    survey, machine = survey_data(arguments.paths), this_machine()
    written = write_experiment(name, survey, machine, folder)
    _print_report(survey, machine, written)
    return 0


def default_name(path: Path) -> str:
    """A run's name from that of a folder or file."""
    is_file = path.suffix.lower() in (".tar", *TABLE_ENDINGS)
    stem = path.resolve().stem if is_file else path.resolve().name
    return re.sub(r"[^\w.+=-]+", "-", stem).strip("-.") or "mine"


def _print_report(survey: "DataSurvey", machine: "Machine", written: "Written") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from kelip_lightning.cli.init_report import report_rows

    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for label, text in report_rows(survey, machine, written):
        table.add_row(label, escape(text))
    console.print(table)
    verb_name = "pretrain" if survey.captions.columns else "mae"
    if not survey.captions.columns:
        console.print("No Korean or English captions were found: MAE pre-training only, so mae.yaml alone.")
    console.print("\nEvery assumption stands in a comment beside its key. To train:", soft_wrap=True)
    console.print(f"  kelip {verb_name} {escape(str(written.experiment))}", soft_wrap=True)
