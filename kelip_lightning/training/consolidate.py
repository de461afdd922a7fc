"""From a checkpoint of training, in one file or in ZeRO's pieces, to a folder of weights."""

import logging
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from kelip_lightning.config.experiment import (
    SCHEMAS,
    ContrastiveExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.errors import CheckpointError
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import build_masked_autoencoder
from kelip_lightning.models.model_folder import build_dual_encoder, save_dual_encoder, save_image_encoder
from kelip_lightning.runs.checkpoints import STATE, Checkpoint, newest_intact, read_checkpoint, verify
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.model_card import model_card
from kelip_lightning.training.run_tokenizer import read_tokenizer

_log = logging.getLogger(__name__)

ZERO_TAG = "checkpoint"
"""The folder inside a ZeRO checkpoint that holds every rank's pieces."""


def consolidate(path: Path, output: Path | None = None) -> Path:
    """Write the weights of a checkpoint as float32 in one safetensors file, with all that is needed to load them.

    Args:
        path: A run folder, whose newest checkpoint that is whole is meant, or a checkpoint inside one.
        output: Folder to write; none: where the run's own export stands.

    Returns:
        The folder: `dual_encoder` of contrastive training, `image_encoder` of MAE pre-training.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, it stands in no run, or the output exists.
        RunFolderError: The run keeps no tokenizer, or it was exchanged.
    """
    # Where a checkpoint stands tells its run, and `.` or `step=0000500` alone would not say it.
    state = find_checkpoint(Path(os.path.abspath(path))).state
    run, stage = run_of(state)
    default = {"mae": run.image_encoder, "contrastive": run.dual_encoder}[stage]
    folder = output or default
    if folder.exists():
        raise CheckpointError(f"{folder} exists already; give another folder with --output")
    experiment = _stage_experiment(run, stage)
    facts = {"Weights": f"consolidated from {state.relative_to(run.path)}"}
    if isinstance(experiment, MaskedPretrainExperiment):
        autoencoder = build_masked_autoencoder(ImageEncoder(experiment.image_encoder), experiment.masked_autoencoder)
        load_state(autoencoder, state)
        save_image_encoder(folder, autoencoder.encoder, model_card(run, stage, facts))
    else:
        tokenizer = read_tokenizer(run, experiment.tokenizer.context_length)
        model = build_dual_encoder(
            experiment.image_encoder, experiment.text_encoder, experiment.dual_encoder, tokenizer
        )
        load_state(model, state)
        save_dual_encoder(folder, model, tokenizer, model_card(run, stage, facts))
    return folder


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that a path to a run, to a checkpoint or to its state means, every byte of it as written.

    Raises:
        CheckpointError: There is none, or it is damaged; of a run: all are.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run folder, or a checkpoint inside one")
    run = RunFolder(path)
    if not run.config.is_file():
        checkpoint = read_checkpoint(path.parent if path.name == STATE else path)
        verify(checkpoint)
        return checkpoint
    for stage in reversed(run.stages()):
        newest, damaged = newest_intact(run.stage(stage).checkpoints)
        for problem in damaged:
            _log.warning("%s: the one before it is used", problem)
        if newest is not None:
            return newest
    raise CheckpointError(f"{path} has no checkpoint: its training has not saved one yet")


def run_of(state: Path) -> tuple[RunFolder, str]:
    """The run and the stage that a checkpoint belongs to.

    Raises:
        CheckpointError: It stands outside a run folder.
    """
    for folder in state.absolute().parents:
        if folder.name == "checkpoints" and (folder.parents[1] / "config.yaml").is_file():
            return RunFolder(folder.parents[1]), folder.parent.name
    raise CheckpointError(
        f"{state} stands in no run folder (RUN/STAGE/checkpoints/), whose config.yaml says what model it is of"
    )


def load_state(model: nn.Module, state: Path) -> None:
    """Load a checkpoint's weights into the stage's model, strictly, less the heads of a self-supervised loss.

    Raises:
        CheckpointError: The checkpoint is damaged, or of another model.
    """
    weights = {
        name.removeprefix("model."): value
        for name, value in read_state(state).items()
        if not name.startswith("self_supervision.")
    }
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{state} does not fit the run's config.yaml: {error}") from error


def read_state(state: Path) -> dict[str, Tensor]:
    """Name -> float32 tensor on the CPU, from one file or from the pieces of every rank.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        if (state / ZERO_TAG).is_dir():
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            pieces: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(state), tag=ZERO_TAG)
            return pieces
        weights: dict[str, Tensor] = torch.load(state, map_location="cpu", weights_only=True)["state_dict"]
    except ImportError as error:
        raise CheckpointError(f"{state} is DeepSpeed's; install kelip-lightning[deepspeed] to read it") from error
    except Exception as error:  # whatever a damaged file makes torch or DeepSpeed raise
        raise CheckpointError(f"{state} is damaged or no checkpoint ({error}); take an earlier one") from error
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _stage_experiment(run: RunFolder, stage: str) -> MaskedPretrainExperiment | ContrastiveExperiment:
    schema = find_schema(run.config, SCHEMAS)
    experiment = load_experiment(run.config, [], schema, on_this_machine=False, stored=True).experiment
    found = getattr(experiment, stage) if isinstance(experiment, PretrainExperiment) else experiment
    assert isinstance(found, MaskedPretrainExperiment | ContrastiveExperiment)
    return found
