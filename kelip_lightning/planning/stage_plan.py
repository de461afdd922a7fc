"""The stage plan: values derived from the settings of a stage (sizes per device, epochs, tokens, parameters, disk).

A plan is computed once, printed and saved; the settings stay as they are. Learning rates are not rescaled: they are
given for the experiment's own global batch size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import torch

from data_modules.loading import OpenedBefore, open_sources
from data_modules.order.checking import check_batches
from data_modules.order.mixture import build_order
from data_modules.order.sampling import Order
from data_modules.prefetch import bytes_per_sample, check_prefetch, check_shared_memory, prefetched_bytes
from data_modules.sources.languages import apply_language_rule
from data_modules.sources.rows import PairSource
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    Experiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.distributed.accelerators import choose_precision
from kelip_lightning.models.config import ImageEncoderConfig, MaskedAutoencoderVariant, num_kept
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderBase, build_masked_autoencoder
from kelip_lightning.models.self_supervision import build_branch
from kelip_lightning.models.text_encoder import build_text_encoder

Stage = MaskedPretrainExperiment | ContrastiveExperiment
OpenedSources = Mapping[str, Sequence[PairSource]]
"""Stage -> its open sources, before `data.languages` selects captions."""

BYTES_PER_PARAMETER_SAVED = 12
"""A float32 parameter and the optimizer's two moments; a moving average of the weights takes 4 bytes more."""
BYTES_FOR_RECORDS = 64 * 2**20
"""TensorBoard events, metrics and the exported weights of a small model."""
TOWERS = {"image_tower": ("image_encoder", "image_projection"), "text_tower": ("text_encoder", "text_projection")}
"""Parts of the vision and the text model in published parameter counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Values derived from the settings of one stage."""

    precision: str
    """Lightning's `precision`."""
    batch_size_per_device: int
    """Samples of one optimizer step on one device."""
    chunk_size: int
    """Samples in one forward pass on one device: `batch_size_per_device` over `trainer.accumulate`."""
    max_steps: int
    """Optimizer steps."""
    warmup_steps: int
    """Steps until the learning rate reaches its peak."""
    samples_per_epoch: int | None
    """Images or pairs of one pass through the weighted mixture; `None`: the sources were not opened."""
    steps_per_epoch: float | None
    """Optimizer steps of one such pass; batches cross epoch boundaries."""
    samples_seen: int
    """Images (MAE) or pairs (contrastive) of the whole stage."""
    epochs: float | None
    """Passes through the mixture."""
    images_forwarded: int
    """Crops and views through the image encoder in the whole stage; passes of BYOL's target are not counted."""
    tokens_per_global_crop: int
    """Tokens in the image encoder per global crop or view, class token included (MAE: the visible ones)."""
    tokens_per_local_crop: int | None
    """The same per local crop; `None` without local crops."""
    tokens_forwarded: int
    """Tokens through the image encoder in the whole stage."""
    peak_learning_rate: float
    """As configured."""
    final_learning_rate: float
    """At the last step."""
    parameters: dict[str, int]
    """Part of the model -> number of parameters; the text encoder has `tokenizer.vocab_size` tokens."""
    parameter_sums: dict[str, int]
    """Each tower with its projection, as in published counts (contrastive stage), and `all`."""

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The stage plans of a run."""

    stages: dict[str, StagePlan]
    """`mae`, `contrastive` or both."""
    disk_bytes: int
    """Upper bound for checkpoints, exported weights and records."""
    shared_memory_bytes: int
    """Most shared memory that one rank's batches take, in the stage that takes most."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_plan(experiment: Experiment, samples_per_epoch: Mapping[str, int] | None = None) -> Plan:
    """The plan of an experiment.

    Args:
        experiment: A valid experiment.
        samples_per_epoch: Stage -> length of one epoch, from `count_samples`; without it, epochs are `None`.
    """
    lengths = samples_per_epoch or {}
    stages = stages_of(experiment)
    plans = {name: make_stage_plan(stage, lengths.get(name)) for name, stage in stages.items()}
    return Plan(
        stages=plans,
        disk_bytes=sum(disk_bytes(stage, plans[name]) for name, stage in stages.items()),
        shared_memory_bytes=max((shared_memory_bytes(stage, plans[name]) for name, stage in stages.items()), default=0),
    )


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
    """Open the sources of every stage, once for the plan and the data modules, and once for both stages if they agree.

    Raises:
        DataError: A file is missing or damaged, or too many samples of a source are invalid.
    """
    opened: OpenedBefore = {}
    return {
        name: open_sources(stage.data.sources, stage.data.order, stage.data.corrupt_samples, opened)
        for name, stage in stages_of(experiment).items()
    }


def count_samples(experiment: Experiment, opened: OpenedSources) -> dict[str, int]:
    """Stage -> images or pairs of one epoch of its mixture.

    Raises:
        DataError: The settings of a stage's order or languages do not fit its sources.
    """
    return {name: _order(stage, opened[name]).epoch_length for name, stage in stages_of(experiment).items()}


def check_contrastive_batches(experiment: Experiment, opened: OpenedSources) -> None:
    """Check that the batches of contrastive training hold different pairs, and that the run sees all of them.

    Raises:
        DataError: They do not, and `data.allow_repeats` or `data.allow_partial_epoch` is not set.
    """
    for name, stage in stages_of(experiment).items():
        if isinstance(stage, ContrastiveExperiment):
            at = "" if stage is experiment else f"{name}."
            check_batches(stage.data, _order(stage, opened[name]), stage.schedule.max_steps, at)


def _order(stage: Stage, sources: Sequence[PairSource]) -> Order:
    """The order of a stage's batches."""
    configs = stage.data.sources
    if isinstance(stage, ContrastiveExperiment):
        sources = apply_language_rule(sources, configs, stage.data.languages, stage.data.language_overlap)
    return build_order(sources, configs, stage.data.global_batch_size, stage.seed, stage.data.order)


def make_stage_plan(stage: Stage, samples_per_epoch: int | None) -> StagePlan:
    """The plan of one stage; `samples_per_epoch` as in `StagePlan`."""
    batch, steps = stage.data.global_batch_size, stage.schedule.max_steps
    seen = batch * steps
    global_tokens, local_tokens = tokens_per_crop(stage)
    num_global, num_local, num_views = _crops_per_sample(stage)
    num_full = num_global + num_views
    parameters = count_parameters(stage)
    with_towers = isinstance(stage, ContrastiveExperiment)
    towers = {name: sum(parameters[part] for part in parts) for name, parts in TOWERS.items() if with_towers}
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
        parameter_sums={**towers, "all": sum(parameters.values())},
    )


def _crops_per_sample(stage: Stage) -> tuple[int, int, int]:
    """Global crops, local crops and views per image."""
    if isinstance(stage, MaskedPretrainExperiment):
        return 1, 0, 0
    return stage.transform.num_global_crops, stage.transform.num_local_crops, stage.transform.views.num_views


def tokens_per_crop(stage: Stage) -> tuple[int, int | None]:
    """Tokens in the image encoder per global and per local crop, class token included."""
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
    """Part of the model -> number of parameters, counted on the modules; the MAE decoder is one part."""
    parts: dict[str, int] = {}
    for name, parameter in build_on_meta(stage).named_parameters():
        part = part_of(name, stage)
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def part_of(name: str, stage: Stage) -> str:
    """The part of the model that a parameter belongs to."""
    part = name.partition(".")[0]
    if isinstance(stage, MaskedPretrainExperiment):
        return "image_encoder" if part == "encoder" else "decoder"
    return part


@overload
def build_on_meta(stage: MaskedPretrainExperiment) -> MaskedAutoencoderBase: ...


@overload
def build_on_meta(stage: ContrastiveExperiment) -> DualEncoder: ...


def build_on_meta(stage: Stage) -> MaskedAutoencoderBase | DualEncoder:
    """The stage's model on the meta device; the text encoder has `tokenizer.vocab_size` tokens.

    Its submodule `self_supervision` holds the heads of the self-supervised loss and BYOL's target.
    """
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
        model = DualEncoder(image_encoder, text_encoder, stage.dual_encoder)
        model.add_module("self_supervision", build_branch(image_encoder, stage.self_supervision))
        return model


def disk_bytes(stage: Stage, plan: StagePlan) -> int:
    """Upper bound for the checkpoints that are kept, one being written, the exported weights and the records."""
    checkpoints = stage.checkpoint.num_kept + 1
    saved = BYTES_PER_PARAMETER_SAVED + (4 if stage.trainer.ema_decay is not None else 0)
    return plan.num_parameters * (saved * checkpoints + 4) + BYTES_FOR_RECORDS


def shared_memory_bytes(stage: Stage, plan: StagePlan) -> int:
    """Most shared memory of one rank's batches."""
    return prefetched_bytes(stage.data, _batch_bytes(stage, plan))


def _batch_bytes(stage: Stage, plan: StagePlan) -> int:
    """Pixels of one rank's batch."""
    return plan.batch_size_per_device * bytes_per_sample(stage.data, stage.transform)


def check_loaders(experiment: Experiment, plan: Plan) -> None:
    """Check that the batches that the loader processes make ahead fit into their limit and into shared memory.

    Raises:
        DataError: They do not.
    """
    ranks = 1
    for name, stage in stages_of(experiment).items():
        check_prefetch(stage.data, _batch_bytes(stage, plan.stages[name]), "" if stage is experiment else f"{name}.")
        ranks = max(ranks, stage.trainer.num_processes // stage.trainer.num_nodes)
    check_shared_memory([plan.shared_memory_bytes] * ranks)
