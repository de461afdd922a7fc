"""`kelip evaluate RUN [FILE]`: the metrics of a finished run."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.device import add_device_argument
from kelip_lightning.cli.training import check_syntax
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from data_modules.benchmarks.evaluation_sets import EvaluationConfig

NAME = "evaluate"
HELP = "evaluate a finished run in both languages"
DESCRIPTION = """\
Retrieval, zero-shot classification and cross-lingual caption retrieval of a finished run, on the
evaluation sets of FILE.yaml (its section `evaluation`), or on those that the run itself used.

  kelip evaluate runs/emoji
  kelip evaluate runs/emoji experiments/emoji/contrastive.yaml --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`RUN [FILE.yaml] [dotted.key=value ...] [--device NAME] [--json]`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run, for example runs/emoji")
    parser.add_argument(
        "overrides",
        metavar="FILE.yaml dotted.key=value",
        nargs="*",
        help="an experiment with a section `evaluation`, and values that replace its own",
    )
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print metrics and chance levels as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    folder = RunFolder.open(arguments.run_folder)
    device = choose_device(arguments.device)
    evaluation = load_evaluation(folder, arguments.overrides)
    from kelip_lightning.cli.report import print_metrics
    from kelip_lightning.inference.evaluate import evaluate_run

    metrics, chance = evaluate_run(folder, evaluation, device)
    if arguments.json:
        print(json.dumps({"run": str(folder.path), "metrics": metrics, "chance": chance}, indent=2))
    else:
        print_metrics(metrics, chance, title=folder.name)
    return 0


def load_evaluation(folder: RunFolder, words: list[str]) -> "EvaluationConfig":
    """The evaluation sets that the command line names.

    Args:
        folder: Its own configuration is used when no file is given.
        words: At first a file or none, then overrides.

    Raises:
        ConfigError: The file or an override is wrong, or there are no evaluation sets.
    """
    given = bool(words) and "=" not in words[0]
    file, overrides = (Path(words[0]), words[1:]) if given else (folder.config, words)
    check_syntax(str(file))
    from kelip_lightning.config.experiment import (
        SCHEMAS,
        ContrastiveExperiment,
        EvaluationExperiment,
        PretrainExperiment,
    )
    from kelip_lightning.config.load import find_schema, load_experiment
    from kelip_lightning.errors import ConfigError

    schema = find_schema(file, SCHEMAS)
    experiment = load_experiment(file, overrides, schema, on_this_machine=False, stored=not given).experiment
    if isinstance(experiment, PretrainExperiment):
        experiment = experiment.contrastive
    if not isinstance(experiment, ContrastiveExperiment | EvaluationExperiment):
        raise ConfigError([f"{file} has no section evaluation; give an experiment of contrastive training"])
    evaluation = experiment.evaluation
    if not (evaluation.retrieval or evaluation.captions or evaluation.classification):
        raise ConfigError([f"{file}: evaluation names no set; give evaluation.retrieval, captions or classification"])
    return evaluation
