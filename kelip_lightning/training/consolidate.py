"""Convert a training checkpoint, one file or ZeRO's shards, to a folder of weights."""

import logging
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from kelip_lightning.config.experiment import SCHEMAS, MaskedPretrainExperiment
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.errors import CheckpointError
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import build_masked_autoencoder
from kelip_lightning.models.model_folder import fresh_dual_encoder, save_dual_encoder, save_image_encoder
from kelip_lightning.planning.stage_plan import stages_of
from kelip_lightning.runs.checkpoints import STATE, Checkpoint, newest_intact, read_checkpoint, verify
from kelip_lightning.runs.folder import STAGES, RunFolder, run_of_checkpoint
from kelip_lightning.runs.model_card import model_card
from kelip_lightning.training.initial_model import stored_text_record
from kelip_lightning.training.provenance import read_tokenizer

_log = logging.getLogger(__name__)

ZERO_TAG = "checkpoint"
"""The folder inside a ZeRO checkpoint that holds every rank's shards."""


def consolidate(path: Path, output: Path | None = None) -> Path:
    """Write the weights of a checkpoint as float32 in one safetensors file, with everything needed to load them.

    Args:
        path: A run folder (its newest intact checkpoint), or a checkpoint inside one.
        output: Folder to write; `None`: the folder to which the run's stage exports.

    Returns:
        The folder: `dual_encoder` of contrastive training, `image_encoder` of MAE pre-training.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, it is in no run folder, or the output exists.
        RunFolderError: The run has no tokenizer, or it was replaced.
    """
    # The run follows from the checkpoint's absolute path.
    state = find_checkpoint(Path(os.path.abspath(path))).state
    found = run_of_checkpoint(state)
    if found is None:
        raise CheckpointError(f"{state} is in no run folder (RUN/STAGE/checkpoints/), with a config.yaml")
    run, stage = found
    folder = output or {"mae": run.image_encoder, "contrastive": run.dual_encoder}[stage]
    if folder.exists():
        raise CheckpointError(f"{folder} exists already; give another folder with --output")
    loaded = load_experiment(run.config, [], find_schema(run.config, SCHEMAS), on_this_machine=False, stored=True)
    experiment = stages_of(loaded.experiment)[stage]
    facts = {"Weights": f"consolidated from {state.relative_to(run.path)}"}
    if isinstance(experiment, MaskedPretrainExperiment):
        autoencoder = build_masked_autoencoder(ImageEncoder(experiment.image_encoder), experiment.masked_autoencoder)
        load_state(autoencoder, state)
        save_image_encoder(folder, autoencoder.encoder, model_card(run, stage, facts))
    else:
        tokenizer = read_tokenizer(run, experiment.tokenizer.context_length)
        sections = experiment.image_encoder, experiment.text_encoder, experiment.dual_encoder
        model = fresh_dual_encoder(*sections, tokenizer, stored_text_record(run))
        load_state(model, state)
        save_dual_encoder(folder, model, tokenizer, model_card(run, stage, facts))
    return folder


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path to a run (the newest), a checkpoint or its state, verified.

    Raises:
        CheckpointError: There is none, or it is damaged; in a run: all are.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run folder, or a checkpoint inside one")
    run = RunFolder(path)
    if not run.config.is_file():
        checkpoint = read_checkpoint(path.parent if path.name == STATE else path)
        verify(checkpoint)
        return checkpoint
    for stage in reversed(STAGES):
        newest, damaged = newest_intact(run.stage(stage).checkpoints)
        for problem in damaged:
            _log.warning("%s: the one before it is used", problem)
        if newest is not None:
            return newest
    raise CheckpointError(f"{path} has no checkpoint: its training has not saved one yet")


def load_state(model: nn.Module, state: Path) -> None:
    """Load a checkpoint's weights strictly into the stage's model, without the heads of a self-supervised loss.

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
    """Name -> float32 tensor on the CPU, from one file or from the shards of every rank.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        if (state / ZERO_TAG).is_dir():
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            shards: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(state), tag=ZERO_TAG)
            return shards
        weights: dict[str, Tensor] = torch.load(state, map_location="cpu", weights_only=True)["state_dict"]
    except ImportError as error:
        raise CheckpointError(f"{state} is DeepSpeed's; install kelip-lightning[deepspeed] to read it") from error
    except Exception as error:  # whatever a damaged file makes torch or DeepSpeed raise
        raise CheckpointError(f"{state} is damaged or no checkpoint ({error}); use an earlier one") from error
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
