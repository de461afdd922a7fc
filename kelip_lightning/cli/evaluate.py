"""`kelip evaluate RUN [FILE]`: the metrics of a finished run."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import add_device_argument, add_run_argument, load_any_experiment, verb
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from data_modules.benchmarks.evaluation_sets import EvaluationConfig


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "overrides",
        metavar="FILE.yaml dotted.key=value",
        nargs="*",
        help="an experiment with a section `evaluation`, and overrides",
    )
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print metrics and chance levels as JSON")


@verb(_add_arguments)
def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate a finished run in both languages.

    Retrieval, zero-shot classification and cross-lingual caption retrieval of a finished run, on the
    evaluation sets of FILE.yaml (its section `evaluation`), by default on those of the run.

      kelip evaluate runs/emoji
      kelip evaluate runs/emoji experiments/emoji/contrastive.yaml --json
    """
    folder = RunFolder.open(arguments.run_folder)
    device = choose_device(arguments.device)
    evaluation = _load_evaluation(folder, arguments.overrides)
    from kelip_lightning.cli.report import print_metrics
    from kelip_lightning.inference.evaluate import evaluate_run

    metrics, chance = evaluate_run(folder, evaluation, device)
    if arguments.json:
        print(json.dumps({"run": str(folder.path), "metrics": metrics, "chance": chance}, indent=2))
    else:
        print_metrics(metrics, chance, title=folder.name)
    return 0


def _load_evaluation(folder: RunFolder, words: list[str]) -> "EvaluationConfig":
    """The evaluation sets that the command line names.

    Args:
        folder: Provides the configuration if no file is given.
        words: A file, optional, then overrides.

    Raises:
        ConfigError: The file or an override is wrong, or there are no evaluation sets.
    """
    given = bool(words) and "=" not in words[0]
    file, overrides = (Path(words[0]), words[1:]) if given else (folder.config, words)
    experiment = load_any_experiment(file, overrides, on_this_machine=False, stored=not given).experiment
    experiment = getattr(experiment, "contrastive", experiment)
    from kelip_lightning.config.experiment import ContrastiveExperiment, EvaluationExperiment
    from kelip_lightning.errors import ConfigError

    if not isinstance(experiment, ContrastiveExperiment | EvaluationExperiment):
        raise ConfigError([f"{file} has no section evaluation; give an experiment with a contrastive stage"])
    evaluation = experiment.evaluation
    if not (evaluation.retrieval or evaluation.captions or evaluation.classification):
        raise ConfigError([f"{file}: evaluation has no sets; give evaluation.retrieval, captions or classification"])
    return evaluation
