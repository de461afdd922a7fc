"""`kelip plan FILE`: what an experiment costs, before it runs."""

import argparse
import json
from dataclasses import asdict

from kelip_lightning.cli.training import add_experiment_arguments, check_syntax
from kelip_lightning.planning.throughput import GPUS

NAME = "plan"
HELP = "parameters, operations, memory, time and disk of an experiment, before it runs"
DESCRIPTION = """\
Parameters by part, and what the optimizer does with them; floating-point operations per image or pair; memory of
one rank by strategy; pairs per second and hours at a given utilisation; sizes on disk. Each table says whether its
metrics are exact or an estimate. Nothing is trained; files and devices need not be there.

  kelip plan experiments/kelip_b32/contrastive.yaml
  kelip plan experiments/kelip_b32/pretrain.yaml --gpu h100 --mfu 0.3 trainer.num_nodes=4 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`FILE.yaml [dotted.key=value ...] [--gpu NAME] [--mfu SHARE] [--tile COLUMNS] [--json]`."""
    add_experiment_arguments(parser)
    parser.add_argument("--gpu", choices=tuple(GPUS), default="a100", help="kind of GPU (default: a100)")
    parser.add_argument(
        "--mfu",
        type=_share,
        default=0.4,
        metavar="SHARE",
        help="model FLOPs utilisation, above 0 and at most 1 (default: 0.4)",
    )
    parser.add_argument(
        "--tile",
        type=_count,
        default=1024,
        metavar="COLUMNS",
        help="logits per pair of the chunked loss, shown beside the full matrix (default: 1024, or the experiment's)",
    )
    parser.add_argument("--json", action="store_true", help="print every metric as JSON, in bytes and operations")


def run(arguments: argparse.Namespace) -> int:
    """Check the experiment, calculate, print."""
    check_syntax(arguments.file)
    from data_modules.errors import DataError
    from kelip_lightning.cli.plan_tables import print_estimate
    from kelip_lightning.config.experiment import SCHEMAS, EvaluationExperiment
    from kelip_lightning.config.load import find_schema, load_experiment
    from kelip_lightning.errors import ConfigError
    from kelip_lightning.planning.estimate import estimate
    from kelip_lightning.planning.stage_plan import count_samples, open_stages

    schema = find_schema(arguments.file, SCHEMAS)
    if schema is EvaluationExperiment:
        raise ConfigError(
            [f"{arguments.file} trains nothing, so there is nothing to plan; give a file with a schedule"]
        )
    experiment = load_experiment(arguments.file, arguments.overrides, schema, on_this_machine=False).experiment
    try:
        samples = count_samples(experiment, open_stages(experiment))
    except DataError:
        samples = {}  # the data is elsewhere: epochs stay open
    stages = estimate(
        experiment, gpu=arguments.gpu, utilisation=arguments.mfu, tile=arguments.tile, samples_per_epoch=samples
    )
    if arguments.json:
        print(json.dumps({name: asdict(stage) for name, stage in stages.items()}, indent=2))
    else:
        print_estimate(arguments.file, stages)
    return 0


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0 and at most 1")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return int(text)
