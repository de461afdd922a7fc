"""`kelip ablate FILE`: every variant with every seed, and the report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.device import add_device_argument
from kelip_lightning.cli.failures import StoppedError

if TYPE_CHECKING:
    from kelip_lightning.ablations.config import AblationConfig
    from kelip_lightning.ablations.study import PlannedRun, Study

NAME = "ablate"
HELP = "train every variant of a study with every seed, and report which differ"
DESCRIPTION = """\
A study is a YAML file: a question, a base experiment, variants as overrides. Its runs are trained one after the
other (--jobs: beside each other), each in its own process, and reused by whatever study asks for the same
settings, on the same data and code. The report has intervals over items and seeds, and names no winner inside them.

  kelip ablate experiments/ablations/augmentation.yaml --dry-run
  kelip ablate experiments/ablations/augmentation.yaml --resume
  kelip ablate experiments/ablations/augmentation.yaml --scale kelip_b32 --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`FILE.yaml` and what of it is wanted."""
    parser.add_argument("file", metavar="FILE.yaml", type=Path, help="the study")
    parser.add_argument("--scale", metavar="NAME", help="which of the study's experiments (default: the first)")
    parser.add_argument("--seeds", type=_count, metavar="N", help="number of seeds (default: the study's)")
    parser.add_argument("--variant", action="append", metavar="NAME", help="train this variant only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="short runs, two seeds: the same path, no findings")
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="runs beside each other (default: 1)")
    parser.add_argument("--resume", action="store_true", help="go on with the runs that were cut off")
    parser.add_argument(
        "--accept-revision",
        action="append",
        default=[],
        metavar="SHA|any",
        help="use runs that this revision of the code trained as well; may be repeated (default: this code's alone)",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"), metavar="FOLDER", help="folder of all")
    add_device_argument(parser)
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--dry-run", action="store_true", help="check all; print runs, settings and cost; write the array"
    )
    only.add_argument("--report", action="store_true", help="train nothing, report on what has finished")
    only.add_argument("--power", action="store_true", help="simulate: which differences would this study find?")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then train, then report; returns 1 if a run failed."""
    from kelip_lightning.ablations.config import load_ablation

    config = load_ablation(arguments.file)  # before anything slow is imported
    if arguments.power:
        return _print_power(config, arguments)
    from kelip_lightning.ablations.pool import refuse_unfinished
    from kelip_lightning.ablations.revisions import refuse_other_revisions
    from kelip_lightning.ablations.study import Choice, open_study
    from kelip_lightning.cli.ablate_tables import print_dry_run
    from kelip_lightning.distributed.accelerators import choose_device

    choose_device(arguments.device)  # that is wanted after hours of training
    choice = Choice(scale=arguments.scale, seeds=arguments.seeds, quick=arguments.quick, output=arguments.output)
    trains = not (arguments.dry_run or arguments.report)
    study = open_study(arguments.file, choice, on_this_machine=trains)
    wanted = _wanted(study, arguments.variant)
    refuse_other_revisions(study.pool, study.runs, arguments.accept_revision)
    _compare_data(study, must_be_here=trains)
    if arguments.dry_run:
        print_dry_run(study, wanted)
        return 0
    if trains and not arguments.resume:
        refuse_unfinished(study.pool, wanted)
    return _train_and_report(study, wanted if trains else [], arguments)


def _wanted(study: "Study", names: Sequence[str] | None) -> "list[PlannedRun]":
    from kelip_lightning.errors import ConfigError

    if unknown := sorted(set(names or ()) - set(study.variants)):
        raise ConfigError([f"--variant {unknown[0]}: {study.file} has the variants {', '.join(study.variants)}"])
    return [run for run in study.runs if not names or run.variant in names]


def _compare_data(study: "Study", *, must_be_here: bool) -> None:
    """Refuse runs of other data; a report can be written where the data is not, and says so."""
    from data_modules.errors import DataError
    from kelip_lightning.ablations.same_data import refuse_other_data

    try:
        refuse_other_data(study.pool, study.runs)
    except DataError as error:
        if must_be_here:
            raise
        _tell(f"whether the runs were trained on the data of now is not known here: {error}")


def _train_and_report(study: "Study", wanted: "Sequence[PlannedRun]", arguments: argparse.Namespace) -> int:
    from kelip_lightning.ablations.execution import execute
    from kelip_lightning.ablations.findings import collect
    from kelip_lightning.ablations.report.writing import write_report
    from kelip_lightning.cli.ablate_tables import print_answer

    try:
        failures = execute(study, wanted, arguments.jobs, _tell) if wanted else []
    except KeyboardInterrupt as interruption:
        message = f"interrupted; finished runs stay in {study.pool}, go on with --resume"
        raise StoppedError(message, 130) from interruption
    findings = collect(study, failures, arguments.device)
    folder = write_report(study, findings)
    print_answer(study, findings, folder)
    return 1 if failures else 0


def _print_power(config: "AblationConfig", arguments: argparse.Namespace) -> int:
    from kelip_lightning.cli.ablate_tables import print_power

    scale = arguments.scale or next(iter(config.scales))
    if scale not in config.scales:
        from kelip_lightning.errors import ConfigError

        raise ConfigError([f"--scale {scale}: {arguments.file} has the scales {', '.join(config.scales)}"])
    print_power(len(config.variants_at(scale)) - 1, arguments.seeds or config.seeds)
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return int(text)
