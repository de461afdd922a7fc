"""`kelip ablate FILE`: train every variant with every seed, and write the report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.failures import StoppedError
from kelip_lightning.cli.verb import add_device_argument, positive_count, verb
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.errors import ConfigError

if TYPE_CHECKING:
    from kelip_lightning.ablations.config import AblationConfig
    from kelip_lightning.ablations.study import PlannedRun, Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.yaml", type=Path, help="the study")
    parser.add_argument("--scale", metavar="NAME", help="one of the study's experiments (default: the first)")
    parser.add_argument("--seeds", type=positive_count, metavar="N", help="number of seeds (default: the study's)")
    parser.add_argument("--variant", action="append", metavar="NAME", help="train this variant only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="short runs with two seeds, to test the study")
    parser.add_argument(
        "--jobs", type=positive_count, default=1, metavar="N", help="number of runs in parallel (default: 1)"
    )
    parser.add_argument("--resume", action="store_true", help="resume interrupted runs")
    parser.add_argument(
        "--accept-revision",
        action="append",
        default=[],
        metavar="SHA|any",
        help="also use runs trained by this revision of the code; may be repeated (default: the current revision)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/ablations"), metavar="FOLDER", help="folder of runs and reports"
    )
    add_device_argument(parser)
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--dry-run", action="store_true", help="check the study, print runs, settings and cost, write the Slurm array"
    )
    only.add_argument("--report", action="store_true", help="train nothing, report on finished runs")
    only.add_argument("--power", action="store_true", help="simulate the statistical power of a study of this size")
    only.add_argument(
        "--grid", action="store_true", help="simulate studies of all sizes: false winners and power, with --jobs"
    )
    parser.add_argument(
        "--studies", type=positive_count, metavar="N", help="number of simulated studies of --power and --grid"
    )
    parser.add_argument("--items", type=positive_count, metavar="N", help="evaluated items of --power (default: 1,000)")
    parser.add_argument(
        "--spread",
        type=_points,
        metavar="POINTS",
        help="standard deviation over seeds for --power (default: 0.5 and 2)",
    )


@verb(_add_arguments)
def ablate(arguments: argparse.Namespace) -> int:
    """Train every variant of a study with every seed, and report which differ.

    A study is a YAML file: a question, a base experiment, variants as overrides. Its runs are trained sequentially
    (--jobs: in parallel), each in its own process, and reused by any study with the same settings, data and code. The
    report has confidence intervals over items and seeds; differences within them are inconclusive.

      kelip ablate experiments/ablations/augmentation.yaml --dry-run
      kelip ablate experiments/ablations/augmentation.yaml --resume
      kelip ablate experiments/ablations/augmentation.yaml --scale kelip_b32 --dry-run
      kelip ablate experiments/ablations/augmentation.yaml --power
    """
    from kelip_lightning.ablations.config import load_ablation

    config = load_ablation(arguments.file)
    if arguments.power or arguments.grid:
        return _print_power(config, arguments)
    if arguments.studies is not None:
        raise ConfigError(["--studies counts simulated studies: give --power or --grid too, or leave it out"])
    _refuse_sizes(arguments)
    from kelip_lightning.ablations.study import Choice, open_study

    choice = Choice(scale=arguments.scale, seeds=arguments.seeds, quick=arguments.quick, output=arguments.output)
    trains = not (arguments.dry_run or arguments.report)
    study = open_study(arguments.file, choice, on_this_machine=trains)
    wanted = _wanted(study, arguments.variant)
    choose_device(arguments.device)  # fails now, not after training
    from kelip_lightning.ablations.pool import refuse_other_revisions, refuse_unfinished
    from kelip_lightning.cli.ablate_tables import print_dry_run

    refuse_other_revisions(study.pool, study.runs, arguments.accept_revision)
    _compare_data(study, must_be_here=trains)
    if arguments.dry_run:
        print_dry_run(study, wanted, arguments.jobs)
        return 0
    if trains and not arguments.resume:
        refuse_unfinished(study.pool, wanted)
    return _train_and_report(study, wanted if trains else [], arguments)


def _wanted(study: "Study", names: Sequence[str] | None) -> "list[PlannedRun]":
    if unknown := sorted(set(names or ()) - set(study.variants)):
        raise ConfigError([f"--variant {unknown[0]}: {study.file} has the variants {', '.join(study.variants)}"])
    return [run for run in study.runs if not names or run.variant in names]


def _compare_data(study: "Study", *, must_be_here: bool) -> None:
    """Refuse runs of other data; a report without the data present prints a note."""
    from data_modules.errors import DataError
    from kelip_lightning.ablations.pool import refuse_other_data

    try:
        refuse_other_data(study.pool, study.runs)
    except DataError as error:
        if must_be_here:
            raise
        _print_progress(f"the training data of the runs cannot be compared with the current data: {error}")


def _train_and_report(study: "Study", wanted: "Sequence[PlannedRun]", arguments: argparse.Namespace) -> int:
    from kelip_lightning.ablations.collect import collect
    from kelip_lightning.ablations.execution import execute
    from kelip_lightning.ablations.report.writing import write_report
    from kelip_lightning.cli.ablate_tables import print_answer

    try:
        failures = execute(study, wanted, arguments.jobs, _print_progress) if wanted else []
    except KeyboardInterrupt as interruption:
        message = f"interrupted; finished runs are kept in {study.pool}; continue with --resume"
        raise StoppedError(message, 130) from interruption
    report = collect(study, failures, arguments.device)
    folder = write_report(study, report)
    print_answer(study, report, folder)
    return 1 if failures else 0


def _print_power(config: "AblationConfig", arguments: argparse.Namespace) -> int:
    from kelip_lightning.cli.ablate_power import print_grid, print_power

    if arguments.grid:
        _refuse_sizes(arguments)
        print_grid(arguments.studies, arguments.jobs)
        return 0
    scale = arguments.scale or next(iter(config.scales))
    if scale not in config.scales:
        raise ConfigError([f"--scale {scale}: {arguments.file} has the scales {', '.join(config.scales)}"])
    seeds, spread = arguments.seeds or config.seeds, arguments.spread
    spread = None if spread is None else spread / 100
    print_power(len(config.variants_at(scale)) - 1, seeds, arguments.studies, arguments.items, spread)
    return 0


def _refuse_sizes(arguments: argparse.Namespace) -> None:
    for name in ("items", "spread"):
        if getattr(arguments, name) is not None:
            raise ConfigError([f"--{name} describes the simulated studies of --power: give it too, or leave it out"])


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 50:
        raise argparse.ArgumentTypeError(f"{text} must be a number of points from 0 to below 50")
    return value


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
