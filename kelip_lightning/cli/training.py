"""`kelip pretrain|mae|contrastive FILE`: load and check an experiment, create its run folder, train."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from data_modules.loader_process import SCHEDULER_SIGNALS
from kelip_lightning.cli import failures
from kelip_lightning.cli.verb import add_experiment_arguments, check_syntax, verb
from kelip_lightning.errors import RunFolderError, Terminated
from kelip_lightning.runs.folder import RunFolder, is_first_process, was_interrupted
from kelip_lightning.runs.timing import PhaseClock, phase, recorded_phases

if TYPE_CHECKING:
    from kelip_lightning.config.experiment import (
        ContrastiveExperiment,
        MaskedPretrainExperiment,
        PretrainExperiment,
    )
    from kelip_lightning.config.load import LoadedExperiment
    from kelip_lightning.training.inputs import OpenedData

Schema = TypeVar("Schema", bound="MaskedPretrainExperiment | ContrastiveExperiment | PretrainExperiment")

Metrics = dict[str, float]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment_arguments(parser)
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="resume an interrupted run; auto: the run of this name, or a new one if there is none; "
        "PATH: a run folder, or a checkpoint in it",
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="resume although the training data has changed or cannot be compared; recorded in resumes.jsonl",
    )


def _train(
    arguments: argparse.Namespace,
    schema: type[Schema],
    body: Callable[[Schema, RunFolder, "OpenedData"], Metrics],
    clock: PhaseClock,
) -> tuple[RunFolder, Metrics]:
    """Load and check the experiment, create or reopen its run folder, train.

    Args:
        arguments: Of a training verb.
        schema: Class of the experiment.
        body: Trains on the opened data and returns the final metrics.
        clock: Counts the phases of this command, and is active.

    Raises:
        ConfigError, DataError, RunFolderError, CheckpointError, EncoderFileError: Before training.
        StoppedError: By a signal, a full disk, a value that is not finite, or a process that died.
    """
    with phase("imports"):
        from kelip_lightning.cli.report import print_plan, read_report
        from kelip_lightning.config.load import load_experiment
        from kelip_lightning.planning.stage_plan import count_samples, make_plan
        from kelip_lightning.training.inputs import open_data
        from kelip_lightning.training.provenance import check_data, describe_data
        from kelip_lightning.training.resume import record_resumption

    if arguments.accept_changed_data and not arguments.resume:
        raise RunFolderError("--accept-changed-data needs --resume: a new run has no earlier data")
    with phase("settings"):
        loaded = load_experiment(arguments.file, arguments.overrides, schema, on_this_machine=not arguments.resume)
    experiment = loaded.experiment
    run, changes = _resumed_run(arguments.resume, loaded) if arguments.resume else (None, [])
    resumed = run is not None
    if run is not None and run.has_finished("mae" if hasattr(experiment, "masked_autoencoder") else "contrastive"):
        if is_first_process():
            print(f"{run.path} has finished already")
        return run, read_report(run).get("metrics", {})
    with phase("data"):
        opened = open_data(experiment)
        samples = count_samples(experiment, opened.sources)
        data = describe_data(experiment, opened.sources)
    with phase("plan"):
        plan = make_plan(experiment, samples)
    run = run or RunFolder.create(
        Path(experiment.output_dir) / experiment.name,
        config=loaded.resolved,
        overrides=loaded.overrides,
        plan=plan.to_dict(),
        data=data.to_json(),
        needed_bytes=plan.disk_bytes,
    )
    changes += check_data(run, data, accept=arguments.accept_changed_data)
    if resumed:
        record_resumption(run, loaded.overrides, changes)
    if is_first_process():
        print_plan(plan, run)
    try:
        with run.recorded(), recorded_phases(run, clock):
            metrics = body(experiment, run, opened)
    except BaseException as error:
        if (known := failures.stopped(error, run)) is None:
            raise
        raise known from error
    return run, metrics


def _resumed_run(wanted: str, loaded: "LoadedExperiment[Schema]") -> tuple[RunFolder | None, list[str]]:
    """The run to resume, its settings and tokenizer checked, and the changes; `None`: `auto` finds no run."""
    from kelip_lightning.config.load import check_on_this_machine
    from kelip_lightning.training.provenance import refuse_other_tokenizer, with_own_tokenizer
    from kelip_lightning.training.resume import find_run, refuse_other_settings

    experiment = loaded.experiment
    run = find_run(wanted, Path(experiment.output_dir) / experiment.name)
    if run is None:
        check_on_this_machine(experiment)
        return None, []
    changes = refuse_other_settings(run, loaded)
    refuse_other_tokenizer(run, experiment)
    check_on_this_machine(with_own_tokenizer(run, experiment))
    return run, changes


@contextmanager
def terminable() -> Iterator[None]:
    """Ends a verb with a message on a signal of the scheduler; a stage in training has its own handlers."""

    def end(number: int, _: FrameType | None) -> None:
        if was_interrupted(sys.exc_info()[1]):
            return  # launchers send a signal more than once
        raise Terminated(f"{signal.Signals(number).name} received while no stage was training")

    previous = {number: signal.signal(number, end) for number in SCHEDULER_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@verb(_add_arguments)
@terminable()
def pretrain(arguments: argparse.Namespace) -> int:
    """Both stages: MAE pre-training, contrastive training, evaluation.

    MAE pre-training, contrastive training from the exported image encoder, and evaluation, in one run folder.
    An override applies to every stage that has the key; mae.KEY and contrastive.KEY to one stage.

      kelip pretrain experiments/emoji/pretrain.yaml
      kelip pretrain experiments/emoji/pretrain.yaml name=no-mae mae=null
      kelip pretrain experiments/emoji/pretrain.yaml name=wider image_encoder.width=256 image_encoder.num_heads=4
    """
    with PhaseClock().active() as clock:
        check_syntax(arguments.file)
        with phase("imports"):
            from kelip_lightning.config.experiment import PretrainExperiment
            from kelip_lightning.training.stages import run_pretrain

        return _print_result(*_train(arguments, PretrainExperiment, run_pretrain, clock))


@verb(_add_arguments)
@terminable()
def mae(arguments: argparse.Namespace) -> int:
    """Stage 1: MAE pre-training of the image encoder.

    Writes runs/NAME/mae/image_encoder, from which contrastive training starts with
    init.image_encoder=runs/NAME/mae/image_encoder.

      kelip mae experiments/emoji/mae.yaml schedule.max_steps=600
    """
    with PhaseClock().active() as clock:
        check_syntax(arguments.file)
        with phase("imports"):
            from kelip_lightning.config.experiment import MaskedPretrainExperiment
            from kelip_lightning.training.stages import run_masked_pretrain

        run, metrics = _train(arguments, MaskedPretrainExperiment, run_masked_pretrain, clock)
    if is_first_process():
        if (loss := metrics.get("train/loss")) is not None:
            print(f"last reconstruction loss {loss:.4f}")
        print(f"image encoder   {run.image_encoder}")
        print(f"curves, images  make tensorboard   (tensorboard --logdir {run.path.parent})")
        print(f"next            kelip contrastive FILE.yaml init.image_encoder={run.image_encoder}")
    return 0


@verb(_add_arguments)
@terminable()
def contrastive(arguments: argparse.Namespace) -> int:
    """Stage 2: contrastive training of image and text encoder.

    With multi-crop, and evaluation in both languages. Starts from random weights, or from the image encoder
    of MAE pre-training:

      kelip contrastive experiments/emoji/contrastive.yaml init.image_encoder=runs/NAME/mae/image_encoder
    """
    with PhaseClock().active() as clock:
        check_syntax(arguments.file)
        with phase("imports"):
            from kelip_lightning.config.experiment import ContrastiveExperiment
            from kelip_lightning.training.stages import run_contrastive

        return _print_result(*_train(arguments, ContrastiveExperiment, run_contrastive, clock))


def _print_result(run: RunFolder, metrics: Metrics) -> int:
    from kelip_lightning.cli.report import print_result

    if is_first_process():
        print_result(run, metrics)
    return 0
