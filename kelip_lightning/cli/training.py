"""What the training verbs do alike: load, plan, make the run folder, train, tell."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from data_modules.signals import SCHEDULER_SIGNALS
from kelip_lightning.cli import failures
from kelip_lightning.errors import RunFolderError, Terminated
from kelip_lightning.runs.folder import RunFolder, is_first_process, was_interrupted

if TYPE_CHECKING:
    from kelip_lightning.config.experiment import (
        ContrastiveExperiment,
        MaskedPretrainExperiment,
        PretrainExperiment,
    )
    from kelip_lightning.config.load import LoadedExperiment
    from kelip_lightning.planning.stage_plan import OpenedSources

Schema = TypeVar("Schema", bound="MaskedPretrainExperiment | ContrastiveExperiment | PretrainExperiment")

Metrics = dict[str, float]


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """`FILE.yaml [dotted.key=value ...]`."""
    parser.add_argument("file", metavar="FILE.yaml", help="the experiment")
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="values that replace the file's")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """`FILE.yaml [dotted.key=value ...] [--resume auto|PATH [--accept-changed-data]]`."""
    add_experiment_arguments(parser)
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="go on with a run that was cut off; auto: the one of this name, or a new one if there is none; "
        "PATH: a run folder, or a checkpoint in it to go back to",
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="resume although the training data is not that of before, or nobody can tell; told in resumes.jsonl",
    )


def check_syntax(file: str) -> None:
    """Read the file and what it extends before anything slow is imported.

    Raises:
        ConfigError: A file is missing or no YAML.
    """
    from kelip_lightning.config.load import read_experiment_file

    read_experiment_file(Path(file))


def train(
    arguments: argparse.Namespace, schema: type[Schema], body: Callable[[Schema, RunFolder, "OpenedSources"], Metrics]
) -> tuple[RunFolder, Metrics]:
    """Load and check the experiment, make its run folder or open it again, train.

    Args:
        arguments: With `file`, `overrides` and `resume`.
        schema: Class of the experiment.
        body: Trains on the opened sources and returns the final metrics.

    Raises:
        ConfigError, DataError, RunFolderError, CheckpointError, EncoderFileError: Before any work.
        StoppedError: By a signal, a full disk, a number that is not finite, or a process that died.
    """
    from kelip_lightning.cli.report import print_plan
    from kelip_lightning.config.load import load_experiment
    from kelip_lightning.planning.stage_plan import count_samples, make_plan, open_stages
    from kelip_lightning.training.data_record import describe_data, settle_data
    from kelip_lightning.training.resume import record_resumption

    if arguments.accept_changed_data and not arguments.resume:
        raise RunFolderError("--accept-changed-data belongs to --resume: a new run has no data of before")
    loaded = load_experiment(arguments.file, arguments.overrides, schema, on_this_machine=not arguments.resume)
    experiment = loaded.experiment
    run, changes = _resumed_run(arguments.resume, loaded) if arguments.resume else (None, [])
    resumed = run is not None
    if run is not None and run.has_finished("mae" if hasattr(experiment, "masked_autoencoder") else "contrastive"):
        if is_first_process():
            print(f"{run.path} has finished; nothing is left to do")
        return run, _final_metrics(run)
    opened = open_stages(experiment)
    plan, data = make_plan(experiment, count_samples(experiment, opened)), describe_data(experiment, opened)
    run = run or RunFolder.create(
        Path(experiment.output_dir) / experiment.name,
        config=loaded.resolved,
        overrides=loaded.overrides,
        plan=plan.to_dict(),
        data=data.to_json(),
        needed_bytes=plan.disk_bytes,
    )
    changes += settle_data(run, data, accept=arguments.accept_changed_data)
    if resumed:
        record_resumption(run, loaded.overrides, changes)
    if is_first_process():
        print_plan(plan, run)
    try:
        with run.recorded():
            metrics = body(experiment, run, opened)
    except BaseException as error:
        if (known := failures.stopped(error, run)) is None:
            raise
        raise known from error
    return run, metrics


def _resumed_run(wanted: str, loaded: "LoadedExperiment[Schema]") -> tuple[RunFolder | None, list[str]]:
    """The run to go on with, its settings and tokenizer compared, and what differs; none: `auto` found none."""
    from kelip_lightning.config.load import check_on_this_machine
    from kelip_lightning.training.resume import find_run, refuse_other_settings
    from kelip_lightning.training.run_tokenizer import refuse_other_tokenizer, with_own_tokenizer

    experiment = loaded.experiment
    run = find_run(wanted, Path(experiment.output_dir) / experiment.name)
    if run is None:
        check_on_this_machine(experiment)
        return None, []
    changes = refuse_other_settings(run, loaded)
    refuse_other_tokenizer(run, experiment)
    check_on_this_machine(with_own_tokenizer(run, experiment))
    return run, changes


def _final_metrics(run: RunFolder) -> Metrics:
    """The metrics in a finished run's report; empty for MAE pre-training alone."""
    if not run.report.is_file():
        return {}
    return dict(json.loads(run.report.read_text(encoding="utf-8"))["metrics"])


@contextmanager
def terminable() -> Iterator[None]:
    """Lets a signal of the scheduler end a verb at once and in words; a stage that trains has handlers of its own."""

    def end(number: int, _: FrameType | None) -> None:
        if was_interrupted(sys.exc_info()[1]):
            return  # on its way out already, and about to say what stands: launchers send a signal more than once
        raise Terminated(f"{signal.Signals(number).name} came while no stage was training")

    previous = {number: signal.signal(number, end) for number in SCHEDULER_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
