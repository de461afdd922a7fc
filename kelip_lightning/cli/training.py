"""`kelip pretrain|mae|contrastive FILE`: load and check an experiment, create its run folder, train."""

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kelip_lightning.cli import failures
from kelip_lightning.cli.logs import configure_logging
from kelip_lightning.cli.stop_signals import ignore_from_now_on, terminable
from kelip_lightning.cli.verb import add_experiment_arguments, verb
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder, is_first_process
from kelip_lightning.runs.log_file import log_file
from kelip_lightning.runs.timing import clocked, phase, recorded_phases

if TYPE_CHECKING:
    from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, PretrainExperiment
    from kelip_lightning.config.load import LoadedExperiment
    from kelip_lightning.distributed.local_ranks import OtherRanks
    from kelip_lightning.training.inputs import OpenedData
    from kelip_lightning.training.provenance import DataRecord

_log = logging.getLogger(__name__)

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


def _add_pretrain_arguments(parser: argparse.ArgumentParser) -> None:
    _add_arguments(parser)
    parser.add_argument(
        "--mae-from",
        metavar="RUN",
        type=Path,
        help="copy the finished MAE pre-training of this run, which must have the same settings, seed and data, "
        "instead of training it again",
    )


@phase("settings")
def _load(arguments: argparse.Namespace, schema: type[Schema]) -> "LoadedExperiment[Schema]":
    """The experiment of a training verb; of a run to resume, what it names is checked later.

    Raises:
        ConfigError, RunFolderError: It cannot run as configured; most problems are found before torch is imported.
    """
    from kelip_lightning.config.load import load_experiment

    if arguments.accept_changed_data and not arguments.resume:
        raise RunFolderError("--accept-changed-data needs --resume: a new run has no earlier data")
    return load_experiment(
        arguments.file, arguments.overrides, schema, on_this_machine=not arguments.resume, resume=arguments.resume
    )


def _train(
    arguments: argparse.Namespace,
    loaded: "LoadedExperiment[Schema]",
    body: Callable[[Schema, RunFolder, "OpenedData"], Metrics],
) -> tuple[RunFolder, Metrics]:
    """Create or reopen the run folder of an experiment, and train.

    Args:
        arguments: Of a training verb.
        loaded: The experiment.
        body: Trains on the opened data and returns the final metrics.

    Raises:
        ConfigError, DataError, RunFolderError, CheckpointError, EncoderFileError: Before training.
        StoppedError: By a signal, a full disk, a value that is not finite, or a process that died.
    """
    with phase("imports"):
        from kelip_lightning.cli.report import print_plan
        from kelip_lightning.config.devices import with_devices, with_threads
        from kelip_lightning.distributed.local_ranks import forked_ranks
        from kelip_lightning.planning import stage_plan
        from kelip_lightning.training.fit import num_forked_ranks
        from kelip_lightning.training.inputs import open_data
        from kelip_lightning.training.provenance import check_data, describe_data
        from kelip_lightning.training.resume import record_resumption

    experiment = with_threads(with_devices(loaded.experiment))
    run, changes = _resumed_run(arguments.resume, loaded, experiment) if arguments.resume else (None, [])
    resumed = run is not None
    if run is not None and run.has_finished("mae" if hasattr(experiment, "masked_autoencoder") else "contrastive"):
        return _already_finished(run)
    with phase("data"):
        opened = open_data(experiment)
        if not resumed:
            stage_plan.check_contrastive_batches(experiment, opened.sources)
        samples, data = stage_plan.count_samples(experiment, opened.sources), describe_data(experiment, opened.sources)
    with phase("plan"):
        plan = stage_plan.make_plan(experiment, samples)
        stage_plan.check_loaders(experiment, plan)
    reuse_mae = _mae_reuse(arguments, loaded, data, run)
    run = run or RunFolder.create(
        Path(experiment.output_dir) / experiment.name,
        config=loaded.resolved,
        overrides=loaded.overrides,
        plan=plan.to_dict(),
        data=data.to_json(),
        needed_bytes=plan.disk_bytes,
    )
    reuse_mae(run)
    _meet_other_ranks(experiment, run)
    changes += check_data(run, data, accept=arguments.accept_changed_data)
    if resumed:
        record_resumption(run, loaded.overrides, changes)
    if is_first_process():
        print_plan(plan, run)

    train = partial(_recorded, run, partial(body, experiment, run, opened))
    with forked_ranks(num_forked_ranks(experiment), _other_ranks(experiment, train)):
        metrics = train()
    return run, metrics


def _already_finished(run: RunFolder) -> tuple[RunFolder, Metrics]:
    """The result of a run that was to be resumed."""
    from kelip_lightning.cli.report import read_report

    if is_first_process():
        print(f"{run.path} has finished already")
    ignore_from_now_on()
    return run, read_report(run).get("metrics", {})


def _mae_reuse(
    arguments: argparse.Namespace, loaded: "LoadedExperiment[Schema]", data: "DataRecord", run: RunFolder | None
) -> Callable[[RunFolder], None]:
    """What copies the MAE pre-training of `--mae-from` into the new run, which is checked now; else nothing."""
    from kelip_lightning.config.experiment import PretrainExperiment
    from kelip_lightning.training.reused_mae import OPTION, check_reusable, reuse

    wanted: Path | None = getattr(arguments, "mae_from", None)
    if wanted is None or not isinstance(loaded.experiment, PretrainExperiment):
        return lambda _: None
    if run is not None and run.stage("mae").path.is_dir():
        _log.info("%s has begun MAE pre-training already: %s is not used", run.path, OPTION)
        return lambda _: None
    source = RunFolder(wanted)
    check_reusable(source, loaded.experiment, data)
    return partial(reuse, source)


def _meet_other_ranks(experiment: Schema, run: RunFolder) -> None:
    """See that all ranks of a launcher have come and share the run's folder."""
    from kelip_lightning.distributed.accelerators import uses_cuda
    from kelip_lightning.distributed.meeting import meet
    from kelip_lightning.planning.stage_plan import stages_of

    over_gloo = not all(uses_cuda(stage.trainer.accelerator) for stage in stages_of(experiment).values())
    meet(run.path, _timeout(experiment), over_gloo=over_gloo)


def _timeout(experiment: Schema) -> timedelta:
    """Of collectives."""
    from kelip_lightning.planning.stage_plan import stages_of

    return timedelta(minutes=max(stage.trainer.timeout_minutes for stage in stages_of(experiment).values()))


def _recorded(run: RunFolder, train: Callable[[], Metrics]) -> Metrics:
    """Train, and record the run's status, the time of its phases and what it says.

    Raises:
        StoppedError: Instead of an expected failure.
    """
    with terminable(), log_file(run):
        try:
            with run.recorded(), recorded_phases(run):
                metrics = train()
                ignore_from_now_on()  # before the status says that the run has finished
            return metrics
        except BaseException as error:
            if (known := failures.stopped(error, run)) is None:
                raise
            raise known from error


def _other_ranks(experiment: Schema, train: Callable[[], Metrics]) -> "OtherRanks":
    """The ranks that are forks: they print warnings, and errors that the first rank does not have."""
    from kelip_lightning.distributed.local_ranks import OtherRanks

    def run() -> None:
        configure_logging()
        try:
            train()
        except failures.StoppedError as stopped:
            if not isinstance(stopped.__cause__, failures.RAISED_ON_ALL_RANKS):
                raise

    return OtherRanks(run=run, report=failures.report, timeout=_timeout(experiment))


def _resumed_run(
    wanted: str, loaded: "LoadedExperiment[Schema]", experiment: Schema
) -> tuple[RunFolder | None, list[str]]:
    """The run to resume, its settings and tokenizer checked, and the changes; `None`: `auto` finds no run.

    Args:
        wanted: The run, as in `find_run`.
        loaded: The experiment as written, whose settings are compared with the run's.
        experiment: The same with the devices of this machine.
    """
    from kelip_lightning.config.load import check_on_this_machine
    from kelip_lightning.training.provenance import refuse_other_tokenizer, with_own_tokenizer
    from kelip_lightning.training.resume import find_run, refuse_other_settings

    run = find_run(wanted, Path(experiment.output_dir) / experiment.name)
    if run is None:
        check_on_this_machine(experiment)
        return None, []
    changes = refuse_other_settings(run, loaded)
    refuse_other_tokenizer(run, experiment)
    check_on_this_machine(with_own_tokenizer(run, experiment))
    return run, changes


@contextmanager
def refusals_told() -> Iterator[None]:
    """Tells the other ranks of a launcher when this one is refused, so that none waits for it."""
    try:
        yield
    except failures.USER_ERRORS as error:
        from kelip_lightning.distributed.meeting import tell_refusal

        tell_refusal(failures.describe(error))
        raise


@verb(_add_pretrain_arguments)
@refusals_told()
@clocked()
def pretrain(arguments: argparse.Namespace) -> int:
    """Both stages: MAE pre-training, contrastive training, evaluation.

    MAE pre-training, contrastive training from the exported image encoder, and evaluation, in one run folder.
    An override applies to every stage that has the key; mae.KEY and contrastive.KEY to one stage.

      kelip pretrain experiments/emoji/pretrain.yaml
      kelip pretrain experiments/emoji/pretrain.yaml name=no-mae mae=null
      kelip pretrain experiments/emoji/pretrain.yaml name=wider image_encoder.width=256 image_encoder.num_heads=4
      kelip pretrain experiments/emoji/pretrain.yaml name=other seed=1 mae.seed=0 --mae-from runs/emoji
    """
    with phase("imports"):
        from kelip_lightning.config.experiment import PretrainExperiment

    loaded = _load(arguments, PretrainExperiment)
    with phase("imports"):
        from kelip_lightning.training.stages import run_pretrain

    return _print_result(*_train(arguments, loaded, run_pretrain))


@verb(_add_arguments)
@refusals_told()
@clocked()
def mae(arguments: argparse.Namespace) -> int:
    """Stage 1: MAE pre-training of the image encoder.

    Writes runs/NAME/mae/image_encoder, from which contrastive training starts with
    init.image_encoder=runs/NAME/mae/image_encoder.

      kelip mae experiments/emoji/mae.yaml schedule.max_steps=600
    """
    with phase("imports"):
        from kelip_lightning.config.experiment import MaskedPretrainExperiment

    loaded = _load(arguments, MaskedPretrainExperiment)
    with phase("imports"):
        from kelip_lightning.training.stages import run_masked_pretrain

    run, metrics = _train(arguments, loaded, run_masked_pretrain)
    if is_first_process():
        from kelip_lightning.cli.report import print_probes

        if (loss := metrics.get("mae/loss")) is not None:
            print(f"last reconstruction loss {loss:.4f}")
        print_probes(run)
        print(f"image encoder   {run.image_encoder}")
        print(f"curves, images  make tensorboard   (tensorboard --logdir {run.path.parent})")
        print(f"next            kelip contrastive FILE.yaml init.image_encoder={run.image_encoder}")
    return 0


@verb(_add_arguments)
@refusals_told()
@clocked()
def contrastive(arguments: argparse.Namespace) -> int:
    """Stage 2: contrastive training of image and text encoder.

    With multi-crop, and evaluation in both languages. Starts from random weights, from the image encoder of
    MAE pre-training, or from a whole model: a finished run, or one of another library (docs/interchange.md):

      kelip contrastive experiments/emoji/contrastive.yaml init.image_encoder=runs/NAME/mae/image_encoder
      kelip contrastive experiments/emoji/contrastive.yaml init.model=runs/emoji name=emoji-longer
    """
    with phase("imports"):
        from kelip_lightning.config.experiment import ContrastiveExperiment

    loaded = _load(arguments, ContrastiveExperiment)
    with phase("imports"):
        from kelip_lightning.training.stages import run_contrastive

    return _print_result(*_train(arguments, loaded, run_contrastive))


def _print_result(run: RunFolder, metrics: Metrics) -> int:
    from kelip_lightning.cli.report import print_result

    if is_first_process():
        print_result(run, metrics)
    return 0
