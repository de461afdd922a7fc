"""What follows from an experiment: computed once, printed and saved; the experiment stays as it is.

Learning rates are used as they are given: they are meant for the experiment's own global batch size, and
nothing rescales them when it changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from data_modules.loading import open_sources
from data_modules.order.mixture import build_order
from data_modules.sources.languages import apply_language_rule
from data_modules.sources.protocol import PairSource
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    Experiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.distributed.accelerators import choose_precision
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder, ImageEncoderConfig
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderVariant, build_masked_autoencoder
from kelip_lightning.models.patches import num_kept
from kelip_lightning.models.self_supervision import SelfSupervisedBranch, build_branch
from kelip_lightning.models.text_encoder import build_text_encoder

Stage = MaskedPretrainExperiment | ContrastiveExperiment
OpenedSources = Mapping[str, Sequence[PairSource]]
"""Stage -> its sources, opened, before any rule on languages."""

BYTES_PER_PARAMETER_SAVED = 12
"""A checkpoint holds each float32 parameter and the optimizer's two moments; a moving average takes 4 bytes more."""
BYTES_FOR_RECORDS = 64 * 2**20
"""Room for TensorBoard events, metrics and exported weights of a small model."""
TOWERS = {"image_tower": ("image_encoder", "image_projection"), "text_tower": ("text_encoder", "text_projection")}
"""What published parameter counts call the vision and the text model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Derived values of one stage."""

    precision: str
    """As Lightning is told."""
    batch_size_per_device: int
    """Samples of one optimizer step on one device, over which its share of the contrastive loss is computed."""
    chunk_size: int
    """Samples that the networks of one device take at once: its share of the step over `trainer.accumulate`."""
    max_steps: int
    """Optimizer steps."""
    warmup_steps: int
    """Steps until the learning rate reaches its peak."""
    samples_per_epoch: int | None
    """Images or pairs of one pass through the weighted mixture; null: the sources were not opened."""
    steps_per_epoch: float | None
    """Optimizer steps of one such pass; batches run across epoch ends."""
    samples_seen: int
    """Images (MAE) or pairs (contrastive) of the whole stage."""
    epochs: float | None
    """Passes through the mixture."""
    images_forwarded: int
    """Crops and views through the image encoder in the whole stage; BYOL's target, which sees each view too, is not
    counted."""
    tokens_per_global_crop: int
    """Tokens in the image encoder per full-size crop, class token included (MAE: the visible ones)."""
    tokens_per_local_crop: int | None
    """Tokens per local crop; null: none. A view has as many as a global crop."""
    tokens_forwarded: int
    """Tokens through the image encoder in the whole stage."""
    peak_learning_rate: float
    """As configured, for the configured global batch size."""
    final_learning_rate: float
    """At the last step."""
    parameters: dict[str, int]
    """Part of the model -> number of parameters; the text encoder's with the largest vocabulary allowed."""
    parameter_sums: dict[str, int]
    """Towers with their projections, where there are any, as published counts give them; and all."""

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Derived values of a run, stage by stage."""

    stages: dict[str, StagePlan]
    """`mae`, `contrastive` or both."""
    disk_bytes: int
    """Room that checkpoints, exported weights and records may take."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_plan(experiment: Experiment, samples_per_epoch: Mapping[str, int] | None = None) -> Plan:
    """The plan of an experiment.

    Args:
        experiment: A valid experiment.
        samples_per_epoch: Stage -> length of one epoch, from `count_samples`; none: epochs stay open.
    """
    lengths = samples_per_epoch or {}
    stages = stages_of(experiment)
    plans = {name: plan_stage(stage, lengths.get(name)) for name, stage in stages.items()}
    room = sum(disk_bytes(stage, plans[name]) for name, stage in stages.items())
    return Plan(stages=plans, disk_bytes=room)


def stages_of(experiment: Experiment) -> dict[str, Stage]:
    """The stages of an experiment in their order."""
    match experiment:
        case MaskedPretrainExperiment():
            return {"mae": experiment}
        case ContrastiveExperiment():
            return {"contrastive": experiment}
        case PretrainExperiment():
            mae: dict[str, Stage] = {} if experiment.mae is None else {"mae": experiment.mae}
            return {**mae, "contrastive": experiment.contrastive}
        case _:
            return {}


def open_stages(experiment: Experiment) -> OpenedSources:
    """The sources of every stage, for all that reads them: the plan, the data modules.

    Raises:
        DataError: A file is missing or damaged, or too much of a source had to be left out.
    """
    return {
        name: open_sources(stage.data.sources, stage.data.order.shuffle_window, stage.data.corrupt_samples)
        for name, stage in stages_of(experiment).items()
    }


def count_samples(experiment: Experiment, opened: OpenedSources) -> dict[str, int]:
    """Stage -> images or pairs of one epoch of its mixture.

    Raises:
        DataError: The settings of a stage's order or languages do not fit its sources.
    """
    return {name: _epoch_length(stage, opened[name]) for name, stage in stages_of(experiment).items()}


def _epoch_length(stage: Stage, sources: Sequence[PairSource]) -> int:
    configs = stage.data.sources
    if isinstance(stage, ContrastiveExperiment):
        sources = apply_language_rule(sources, configs, stage.data.languages)
    return build_order(sources, configs, 1, stage.seed, stage.data.order).epoch_length


def plan_stage(stage: Stage, samples_per_epoch: int | None) -> StagePlan:
    """The derived values of one stage."""
    batch, steps = stage.data.global_batch_size, stage.schedule.max_steps
    seen = batch * steps
    global_tokens, local_tokens = tokens_per_crop(stage)
    num_global, num_local = crops_per_sample(stage)
    num_full = num_global + views_per_sample(stage)
    parameters = count_parameters(stage)
    return StagePlan(
        precision=choose_precision(stage.trainer.precision, stage.trainer.accelerator),
        batch_size_per_device=batch // stage.trainer.num_processes,
        chunk_size=batch // stage.trainer.num_chunks,
        max_steps=steps,
        warmup_steps=stage.schedule.warmup_steps,
        samples_per_epoch=samples_per_epoch,
        steps_per_epoch=None if samples_per_epoch is None else round(samples_per_epoch / batch, 2),
        samples_seen=seen,
        epochs=None if samples_per_epoch is None else round(seen / samples_per_epoch, 2),
        images_forwarded=seen * (num_full + num_local),
        tokens_per_global_crop=global_tokens,
        tokens_per_local_crop=local_tokens,
        tokens_forwarded=seen * (num_full * global_tokens + num_local * (local_tokens or 0)),
        peak_learning_rate=stage.optimizer.learning_rate,
        final_learning_rate=stage.optimizer.learning_rate * stage.schedule.final_learning_rate_ratio,
        parameters=parameters,
        parameter_sums=sum_by_tower(parameters),
    )


def sum_by_tower(parts: Mapping[str, int]) -> dict[str, int]:
    """Parameters of each tower that has all its parts, and of all parts together."""
    towers = {
        tower: sum(parts[name] for name in names)
        for tower, names in TOWERS.items()
        if all(name in parts for name in names)
    }
    return {**towers, "all": sum(parts.values())}


def crops_per_sample(stage: Stage) -> tuple[int, int]:
    """Crops of full size and local crops per image."""
    if isinstance(stage, MaskedPretrainExperiment):
        return 1, 0
    return stage.transform.num_global_crops, stage.transform.num_local_crops


def views_per_sample(stage: Stage) -> int:
    """Views of full size per image, for the self-supervised loss."""
    return 0 if isinstance(stage, MaskedPretrainExperiment) else stage.transform.views.num_views


def tokens_per_crop(stage: Stage) -> tuple[int, int | None]:
    """Tokens in the image encoder per crop of full size and per local crop, class token included."""
    encoder = stage.image_encoder
    if isinstance(stage, MaskedPretrainExperiment):
        class_token = stage.masked_autoencoder.variant is not MaskedAutoencoderVariant.official
        return class_token + num_kept(encoder.num_patches, stage.masked_autoencoder.mask_ratio), None
    local = stage.transform.local_size if stage.transform.num_local_crops else None
    return _tokens(stage.transform.image_size, encoder), local and _tokens(local, encoder)


def _tokens(size: int, encoder: ImageEncoderConfig) -> int:
    patches = (size // encoder.patch_size) ** 2
    if encoder.patch_drop_rate and size == encoder.image_size:
        patches = num_kept(patches, encoder.patch_drop_rate)
    return 1 + patches


def count_parameters(stage: Stage) -> dict[str, int]:
    """Part of the model -> number of parameters, from the modules themselves; the MAE stage's decoder is one part."""
    model = build_on_meta(stage)
    parts = {name: _count(part) for name, part in model.named_children()}
    parts |= {name: parameter.numel() for name, parameter in model.named_parameters(recurse=False)}
    if isinstance(stage, MaskedPretrainExperiment):
        encoder = parts.pop("encoder")
        return {"image_encoder": encoder, "decoder": sum(parts.values())}
    branch = build_branch_on_meta(stage)
    return parts if branch is None else parts | {"self_supervision": _count(branch)}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build_on_meta(stage: Stage) -> nn.Module:
    """The stage's model without memory: shapes alone. The text encoder has the largest vocabulary allowed."""
    with torch.device("meta"):
        image_encoder = ImageEncoder(stage.image_encoder)
        if isinstance(stage, MaskedPretrainExperiment):
            return build_masked_autoencoder(image_encoder, stage.masked_autoencoder)
        vocabulary = stage.tokenizer.vocab_size
        text_encoder = build_text_encoder(
            stage.text_encoder,
            vocab_size=vocabulary,
            context_length=stage.tokenizer.context_length,
            eot_id=vocabulary - 1,
            pad_id=0,
        )
        return DualEncoder(image_encoder, text_encoder, stage.dual_encoder)


def build_branch_on_meta(stage: Stage) -> SelfSupervisedBranch | None:
    """The heads of the stage's self-supervised loss, and BYOL's target, without memory; none: there is no such loss."""
    if isinstance(stage, MaskedPretrainExperiment):
        return None
    with torch.device("meta"):
        return build_branch(ImageEncoder(stage.image_encoder), stage.self_supervision)


def disk_bytes(stage: Stage, plan: StagePlan) -> int:
    """Room for the checkpoints that are kept, one being written, and the exported weights."""
    checkpoints = stage.checkpoint.num_kept + 1
    saved = BYTES_PER_PARAMETER_SAVED + (4 if stage.trainer.ema_decay is not None else 0)
    return plan.num_parameters * (saved * checkpoints + 4) + BYTES_FOR_RECORDS
