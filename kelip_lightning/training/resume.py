"""Going on with a run that was cut off: which one, whether it is the same experiment, and from which checkpoint."""

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_modules.json_lines import append_json_lines
from kelip_lightning.config.load import PLACE, LoadedExperiment, difference_by_effect, load_experiment
from kelip_lightning.config.trainer import TrainerConfig
from kelip_lightning.distributed.accelerators import is_deepspeed
from kelip_lightning.errors import CheckpointError, RunFolderError
from kelip_lightning.runs import checkpoints
from kelip_lightning.runs.checkpoints import Checkpoint
from kelip_lightning.runs.environment import describe_environment
from kelip_lightning.runs.folder import RunFolder, is_first_process
from kelip_lightning.runs.liveness import Liveness
from kelip_lightning.runs.metrics_file import cut_record
from kelip_lightning.runs.stage_folder import StageFolder

_log = logging.getLogger(__name__)

AUTO = "auto"


def find_run(wanted: str, own: Path) -> RunFolder | None:
    """The run that `--resume` means.

    Args:
        wanted: `auto`: the experiment's own folder. Otherwise a run folder, or one of its checkpoints to go back to.
        own: output_dir/name.

    Returns:
        None: there is no run yet, and `auto` begins one.

    Raises:
        RunFolderError: There is no such run, or it is under way.
        CheckpointError: The checkpoint named is damaged.
    """
    path = own if wanted == AUTO else Path(wanted)
    chosen = None
    whole = Path(os.path.abspath(path))
    if whole.parent.name == "checkpoints":
        chosen = checkpoints.read_checkpoint(path)
        checkpoints.verify(chosen)
        path = whole.parents[2]
    run = RunFolder(path, resumed=True, chosen=chosen)
    # The first process may be creating the run at this moment: for the others, what is no run yet is a new one.
    if wanted == AUTO and (not path.is_dir() or not any(path.iterdir()) or not is_first_process()):
        return run if run.config.is_file() else None
    if not run.config.is_file():
        raise RunFolderError(f"{path} holds no run to resume: it has no config.yaml; give the folder of a run")
    if chosen is not None and chosen.manifest.stage == "mae" and run.has_finished("mae"):
        raise RunFolderError(
            f"{path} has finished MAE pre-training; only a checkpoint of contrastive/ can be gone back to"
        )
    if is_first_process():
        _refuse_running(run, wanted)
    return run


def _refuse_running(run: RunFolder, wanted: str) -> None:
    """A run has one writer. What a host that cannot be asked says is believed, unless the user names the run."""
    match run.liveness():
        case Liveness.alive:
            raise RunFolderError(f"{run.path} holds {run.described()}; stop that process first")
        case Liveness.unknown if wanted == AUTO:
            raise RunFolderError(
                f"{run.path} says that it is under way on {run.read_status().get('host')}; if that process is gone, "
                f"name the run: --resume {run.path}"
            )


def refuse_other_settings(run: RunFolder, loaded: LoadedExperiment[Any]) -> list[str]:
    """Compare the settings with those that the run began with.

    Returns:
        `key: old -> new` for what differs and may: the settings whose role is performance or reporting.

    Raises:
        RunFolderError: Something differs that changes what is learnt, whose role is identity.
    """
    schema = type(loaded.experiment)
    begun = load_experiment(run.config, [], schema, on_this_machine=False, stored=True).experiment
    refused, allowed = difference_by_effect(begun, loaded.experiment)
    if refused:
        raise RunFolderError(
            f"{run.path} was begun with other settings ({'; '.join(refused)}); take them back to resume it, or begin "
            "a new run with name=NEW_NAME"
        )
    return [line for line in allowed if line.partition(":")[0] not in PLACE]


def record_resumption(run: RunFolder, overrides: Sequence[str], changes: Sequence[str]) -> None:
    """Add a line to resumes.jsonl: when, on what, and with which changes the run goes on."""
    if not is_first_process():
        return
    line = {
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "overrides": list(overrides),
        "changes": list(changes),
        "environment": describe_environment(),
    }
    append_json_lines(run.path / "resumes.jsonl", [line])
    _log.info("resuming %s%s", run.path, f" with {'; '.join(changes)}" if changes else "")


def open_stage(run: RunFolder, name: str, trainer: TrainerConfig) -> StageFolder:
    """The folder of a stage that is about to train, with the checkpoint from which it goes on, if any.

    In a resumed run, what the stage recorded after that checkpoint is cut off, since it is going to be recorded again.
    Every rank calls this; the first one writes.

    Raises:
        CheckpointError: No checkpoint is whole, or the one that is does not fit the processes of this run.
    """
    stage = run.stage(name)
    if not run.resumed:
        return stage
    if run.chosen is not None and run.chosen.manifest.stage == name:
        checkpoint: Checkpoint | None = run.chosen
    else:
        checkpoint, damaged = checkpoints.newest_intact(stage.checkpoints)
        for problem in damaged if is_first_process() else []:
            _log.warning("%s: the one before it is used", problem)
    if checkpoint is not None:
        _check_fits(checkpoint, trainer)
        _check_optimizer_groups(checkpoint, run)
    if is_first_process():
        cut_record(stage.metrics_file, name, checkpoint.manifest.metrics_bytes if checkpoint else None)
        if run.chosen is not None and checkpoint is not None:
            for folder in checkpoints.set_aside_after(stage.checkpoints, checkpoint.step):
                _log.warning("%s is of a later step and set aside", folder)
    step = checkpoint.step if checkpoint else 0
    _log.info("%s goes on after step %d%s", name, step, f" from {checkpoint.folder}" if checkpoint else "")
    return replace(stage, checkpoint=checkpoint, resumed=True)


def _check_fits(checkpoint: Checkpoint, trainer: TrainerConfig) -> None:
    sharded, world = is_deepspeed(trainer.strategy), trainer.num_processes
    written = checkpoint.manifest.world_size
    if checkpoint.is_sharded is not sharded:
        kind = "under DeepSpeed" if checkpoint.is_sharded else "without DeepSpeed"
        raise CheckpointError(
            f"{checkpoint.folder} was written {kind}, and trainer.strategy = {trainer.strategy} cannot read its "
            "optimizer; resume with the strategy of before"
        )
    if sharded and world != written:
        raise CheckpointError(
            f"{checkpoint.folder} holds the shares of {written} processes, and DeepSpeed cannot give them to "
            f"trainer.devices x num_nodes = {world}; resume on {written}"
        )


def _check_optimizer_groups(checkpoint: Checkpoint, run: RunFolder) -> None:
    """DeepSpeed's pieces cannot be regrouped, as `optim.older_states` regroups a whole optimizer's state."""
    begun_by = json.loads(run.environment.read_text(encoding="utf-8"))
    # Revisions that note no digest of their code have the logit scale among other parameters.
    if checkpoint.is_sharded and checkpoint.manifest.stage == "contrastive" and "code" not in begun_by:
        revision = begun_by.get("git", {}).get("revision")
        raise CheckpointError(
            f"{checkpoint.folder} holds DeepSpeed's optimizer as an earlier revision grouped its parameters; finish "
            f"the run with that revision ({revision}), or begin a new one with name=NEW_NAME"
        )
