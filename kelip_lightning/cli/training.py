"""What the training verbs do alike: load, plan, make the run folder, train, tell."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kelip_lightning.cli import failures
from kelip_lightning.run_folder import RunFolder, is_first_process

if TYPE_CHECKING:
    from kelip_lightning.config.experiment import (
        ContrastiveExperiment,
        MaskedPretrainExperiment,
        PretrainExperiment,
    )

Schema = TypeVar("Schema", bound="MaskedPretrainExperiment | ContrastiveExperiment | PretrainExperiment")

Figures = dict[str, float]


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """`FILE.yaml [dotted.key=value ...]`."""
    parser.add_argument("file", metavar="FILE.yaml", help="the experiment")
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="values that replace the file's")


def check_syntax(file: str) -> None:
    """Read the file and what it extends before anything slow is imported.

    Raises:
        ConfigError: A file is missing or no YAML.
    """
    from kelip_lightning.config.read import read_experiment_file

    read_experiment_file(Path(file))


def train(
    arguments: argparse.Namespace, schema: type[Schema], body: Callable[[Schema, RunFolder], Figures]
) -> tuple[RunFolder, Figures]:
    """Load and check the experiment, make its run folder, train.

    Args:
        arguments: With `file` and `overrides`.
        schema: Class of the experiment.
        body: Trains and returns the final figures.

    Raises:
        ConfigError, DataError, RunFolderError, EncoderFileError: Before any work.
        StoppedError: By Ctrl-C or a full disk.
    """
    from kelip_lightning.cli.report import print_plan
    from kelip_lightning.config.load import load_experiment
    from kelip_lightning.config.plan import count_samples, make_plan

    loaded = load_experiment(arguments.file, arguments.overrides, schema)
    experiment = loaded.experiment
    plan = make_plan(experiment, count_samples(experiment))
    run = RunFolder.create(
        Path(experiment.output_dir) / experiment.name,
        config=loaded.resolved,
        overrides=loaded.overrides,
        plan=plan.to_dict(),
        needed_bytes=plan.disk_bytes,
    )
    if is_first_process():
        print_plan(plan, run)
    try:
        with run.recorded():
            figures = body(experiment, run)
    except BaseException as error:
        if (known := failures.stopped(error, run)) is None:
            raise
        raise known from error
    return run, figures
