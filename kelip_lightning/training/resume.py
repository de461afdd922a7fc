"""Resuming a run: which run, whether it is the same experiment, and from which checkpoint."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_modules.json_lines import append_json_lines
from kelip_lightning.config.experiment import TrainerConfig
from kelip_lightning.config.load import PLACE, LoadedExperiment, difference_by_effect, load_experiment
from kelip_lightning.config.paths import adopt_moved
from kelip_lightning.distributed.accelerators import is_deepspeed
from kelip_lightning.errors import CheckpointError, RunFolderError
from kelip_lightning.runs import checkpoints
from kelip_lightning.runs.checkpoints import Checkpoint
from kelip_lightning.runs.environment import describe_environment
from kelip_lightning.runs.folder import Liveness, RunFolder, StageFolder, is_first_process, run_of_checkpoint
from kelip_lightning.runs.metrics_file import cut_record

_log = logging.getLogger(__name__)

AUTO = "auto"


def find_run(wanted: str, own: Path) -> RunFolder | None:
    """The run that `--resume` names.

    Args:
        wanted: `auto`: the experiment's own folder. Otherwise a run folder, or one of its checkpoints to return to.
        own: output_dir/name.

    Returns:
        `None`: there is no run yet, and `auto` starts one.

    Raises:
        RunFolderError: There is no such run, or it is in progress.
        CheckpointError: The checkpoint named is damaged.
    """
    run = RunFolder(own if wanted == AUTO else Path(wanted), resumed=True)
    if found := run_of_checkpoint(run.path):
        chosen = checkpoints.read_checkpoint(run.path)
        checkpoints.verify(chosen)
        run = RunFolder(found[0].path, resumed=True, chosen=chosen)
    # The first process may be creating the run at this moment: the others start a new one too if it has no config yet.
    if wanted == AUTO and (not run.path.is_dir() or not any(run.path.iterdir()) or not is_first_process()):
        return run if run.config.is_file() else None
    if not run.config.is_file():
        raise RunFolderError(f"{run.path} holds no run to resume: it has no {run.config.name}; give a run folder")
    if run.chosen is not None and run.chosen.manifest.stage == "mae" and run.has_finished("mae"):
        raise RunFolderError(
            f"{run.path} has finished MAE pre-training; only checkpoints of contrastive/ can be resumed from"
        )
    if is_first_process():
        _refuse_running(run, wanted)
    return run


def _refuse_running(run: RunFolder, wanted: str) -> None:
    """A run has one writer. The status of another host is trusted, unless the user names the run."""
    match run.liveness():
        case Liveness.alive:
            raise RunFolderError(f"{run.path} holds {run.described()}; stop that process first")
        case Liveness.unknown if wanted == AUTO:
            raise RunFolderError(
                f"{run.path} is in progress on {run.read_status().get('host')} according to its status; if that "
                f"process has ended, name the run: --resume {run.path}"
            )


def refuse_other_settings(run: RunFolder, loaded: LoadedExperiment[Any]) -> list[str]:
    """Compare the settings with those in the run's config.yaml.

    Returns:
        `key: old -> new` of the changed settings with the role performance or reporting.

    Raises:
        RunFolderError: A setting with the role identity has changed.
    """
    schema = type(loaded.experiment)
    original = load_experiment(run.config, [], schema, on_this_machine=False, stored=True).experiment
    moved = list(adopt_moved(original, loaded.experiment))  # their content is compared by `check_data`
    refused, allowed = difference_by_effect(original, loaded.experiment)
    if refused:
        raise RunFolderError(
            f"{run.path} began with other settings ({'; '.join(refused)}); restore them to resume it, or start a new "
            "run with name=NEW_NAME"
        )
    return [*moved, *(line for line in allowed if line.partition(":")[0] not in PLACE)]


def record_resumption(run: RunFolder, overrides: Sequence[str], changes: Sequence[str]) -> None:
    """Add a line to resumes.jsonl: time, overrides, changes, and the environment."""
    if not is_first_process():
        return
    line = {
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "overrides": list(overrides),
        "changes": list(changes),
        "environment": describe_environment(),
    }
    append_json_lines(run.resumes, [line])
    _log.info("resuming %s%s", run.path, f" with {'; '.join(changes)}" if changes else "")


def open_stage(run: RunFolder, name: str, trainer: TrainerConfig) -> StageFolder:
    """The folder of a stage that is about to train, with the checkpoint to resume from, if any.

    In a resumed run, metrics and checkpoints of later steps are removed or renamed, since these steps are repeated.
    Every rank calls this; the first one writes.

    Raises:
        CheckpointError: No checkpoint is intact, or it does not fit the processes of this run.
    """
    stage = run.stage(name)
    if is_first_process():  # a faster rank must not make a new run's folder look occupied
        stage.path.mkdir(parents=True, exist_ok=True)
    if not run.resumed:
        return stage
    if run.chosen is not None and run.chosen.manifest.stage == name:
        checkpoint: Checkpoint | None = run.chosen
    else:
        checkpoint, damaged = checkpoints.newest_intact(stage.checkpoints)
        for problem in damaged if is_first_process() else []:
            _log.warning("%s: the one before it is used", problem)
    if checkpoint is not None:
        _check_fits(checkpoint, run, trainer)
    if is_first_process():
        cut_record(stage.metrics_file, name, checkpoint.manifest.metrics_bytes if checkpoint else None)
        if run.chosen is not None and checkpoint is not None:
            for folder in checkpoints.set_aside_after(stage.checkpoints, checkpoint.step):
                _log.warning("%s is the new name of a checkpoint of a later step", folder)
    step = checkpoint.step if checkpoint else 0
    _log.info("%s resumes after step %d%s", name, step, f" from {checkpoint.folder}" if checkpoint else "")
    return replace(stage, checkpoint=checkpoint, resumed=True)


def _check_fits(checkpoint: Checkpoint, run: RunFolder, trainer: TrainerConfig) -> None:
    sharded, world = is_deepspeed(trainer.strategy), trainer.num_processes
    written = checkpoint.manifest.world_size
    if checkpoint.is_sharded is not sharded:
        kind = "under DeepSpeed" if checkpoint.is_sharded else "without DeepSpeed"
        raise CheckpointError(
            f"{checkpoint.folder} was written {kind}, and trainer.strategy = {trainer.strategy} cannot read its "
            "optimizer state; resume with the strategy that wrote it"
        )
    if sharded and world != written:
        raise CheckpointError(
            f"{checkpoint.folder} holds the shards of {written} processes, which DeepSpeed cannot redistribute to "
            f"trainer.devices x num_nodes = {world}; resume on {written}"
        )
    environment = json.loads(run.environment.read_text(encoding="utf-8"))
    # Revisions that record no digest of their code have the logit scale in a group with other parameters;
    # `optim.older_states` regroups a whole optimizer's state, but not DeepSpeed's shards.
    if sharded and checkpoint.manifest.stage == "contrastive" and "code" not in environment:
        revision = environment.get("git", {}).get("revision")
        raise CheckpointError(
            f"{checkpoint.folder} holds DeepSpeed's optimizer with the parameter groups of an earlier revision; finish "
            f"the run with that revision ({revision}), or start a new one with name=NEW_NAME"
        )
