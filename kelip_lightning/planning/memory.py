"""Parameter groups of the optimizer, and the training memory of one rank.

The model's state is exact: it follows from the number of parameters. Activations are an estimate: what autograd saves
in eager mode with fused attention; `torch.compile` saves less. Fragmentation of the allocator, the CUDA context and the
buffers of collectives (together about 2-4 GB) are left out.
"""

import re
from dataclasses import dataclass
from functools import partial

from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.losses.config import ContrastiveKind, MatmulPrecision
from kelip_lightning.models.config import SelfSupervisionMethod
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.locking import lock_encoders
from kelip_lightning.optim.config import OptimizerName
from kelip_lightning.optim.optimizers import group_kinds
from kelip_lightning.optim.roles import Role, roles_of
from kelip_lightning.planning.flops import CHANNELS, Pass, passes_of
from kelip_lightning.planning.stage_plan import (
    Stage,
    StagePlan,
    build_on_meta,
    part_of,
)

STRATEGIES: tuple[str, ...] = ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
"""How the model's state is sharded; a single process holds what DDP holds, without gradient buckets."""

_FP32, _BF16 = 4, 2
_BUCKET_ELEMENTS = 200_000_000
"""`reduce_bucket_size` in Lightning's DeepSpeedStrategy; DeepSpeed allocates the whole bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """Trained parameters of one part of the model that have one role."""

    part: str
    """A tower, a projection, the decoder, the heads of a self-supervised loss, or a scale."""
    role: str
    """Value of `Role`."""
    tensors: int
    parameters: int
    weight_decay: float
    optimizer: str
    """muon or adamw."""
    learning_rates: tuple[float, float]
    """Lowest and highest peak learning rate; `optimizer.layer_decay` scales the configured one."""
    names: list[str]
    """Parameter names, with * for the numbers of blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """ElementSizes of parameters by the memory they need."""

    all: int
    """Trained parameters."""
    matrices: int
    """Weight matrices: autocast caches a bfloat16 copy of each during a step."""
    one_moment: int
    """Parameters with one optimizer moment (Muon) instead of two (AdamW)."""
    heads: int = 0
    """Parameters of a self-supervised loss, which are not exported."""
    target: int = 0
    """BYOL's target, not included in `all`: weights without gradients and moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementSizes:
    """Bytes per value of the tensors of a step."""

    values: int
    """Inputs and outputs of matrix products."""
    residual: int
    """The residual stream, which the LayerNorms read."""
    autocast: bool
    """Whether float32 parameters and norm outputs are cast for each matrix product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMemory:
    """Bytes on one rank, independent of the batch."""

    weights: int
    gradients: int
    optimizer: int
    """Moments, DeepSpeed's float32 copy of the weights, and the moving average of `trainer.ema_decay`."""
    buffers: int
    """Estimate: gradient buckets, and casts of the weights."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class LossMemory:
    """Bytes on one rank for the contrastive loss, including NT-Xent for SimCLR."""

    features: int
    """float32 features of all ranks for every crop and caption, and their gradients; with tf32x3 also the split
    captions."""
    full: int
    """The logits of one crop in one direction, float32: 4 b G. Twice that for the sigmoid loss, which copies them, and
    for tf32x3, which splits their gradient."""
    tiled: int
    """The same for one chunk of t columns: 4 b t, or twice that. Nothing is kept for the backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on one rank under one strategy."""

    strategy: str
    state: StateMemory
    activations: int
    activations_checkpointed: int
    batch: int
    """Crops as loaded."""
    loss: int
    """Features and logits, in chunks with loss.max_logits_per_pair; for MAE the predicted patches."""
    total: int
    total_checkpointed: int
    fits: bool
    """Whether `total` is at most 90 % of the GPU's memory."""
    fits_checkpointed: bool


def planned_groups(stage: Stage) -> list[PlannedGroup]:
    """The parameter groups of a stage by part and role, without locked parameters."""
    model, config = build_on_meta(stage), stage.optimizer
    if isinstance(stage, ContrastiveExperiment) and isinstance(model, DualEncoder):
        lock_encoders(model, **stage.init.locks)
    roles, kinds, sizes = roles_of(model), group_kinds(model, config), dict(model.named_parameters())
    groups: dict[tuple[str, str], list[str]] = {}
    for name in kinds:
        groups.setdefault((part_of(name, stage), roles[name].value), []).append(name)
    found = []
    for (part, role), names in groups.items():
        first, rates = kinds[names[0]], [config.learning_rate * kinds[name].factor for name in names]
        found.append(
            PlannedGroup(
                part=part,
                role=role,
                tensors=len(names),
                parameters=sum(sizes[name].numel() for name in names),
                weight_decay=config.weight_decay if first.decays else 0.0,
                optimizer=(OptimizerName.muon if first.muon else OptimizerName.adamw).name,
                learning_rates=(min(rates), max(rates)),
                names=list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)),
            )
        )
    return found


def element_sizes(precision: str, strategy: str) -> ElementSizes:
    """Bytes per value under a precision and a strategy.

    DeepSpeed casts the whole model to bfloat16 under bf16-mixed as under bf16-true, and its optimizer keeps float32
    copies of the parameters; elsewhere bf16-mixed is autocast with float32 parameters.
    """
    if not precision.startswith("bf16"):
        return ElementSizes(values=_FP32, residual=_FP32, autocast=False)
    autocast = precision == "bf16-mixed" and not strategy.startswith("deepspeed")
    return ElementSizes(values=_BF16, residual=_BF16, autocast=autocast)


def count_state(stage: Stage) -> ParameterCounts:
    """The parameters of a stage's model, counted on the modules."""
    model, muon = build_on_meta(stage), stage.optimizer.name is OptimizerName.muon
    roles, sizes = roles_of(model), {name: one.numel() for name, one in model.named_parameters()}
    targets = {name for name, one in model.named_parameters() if not one.requires_grad}
    trained = sizes.keys() - targets
    return ParameterCounts(
        all=sum(sizes[name] for name in trained),
        matrices=sum(sizes[name] for name in trained if roles[name].decays),
        one_moment=sum(sizes[name] for name in trained if muon and roles[name] is Role.block_matrix),
        heads=sum(sizes[name] for name in trained if part_of(name, stage) == "self_supervision"),
        target=sum(sizes[name] for name in targets),
    )


def state_memory(
    counts: ParameterCounts, strategy: str, precision: str, num_ranks: int, *, averaged: bool = False
) -> StateMemory:
    """The model's state on one rank.

    Bytes with P parameters and N ranks under bf16-mixed with AdamW: DDP 4 P weights, 4 P gradients, 8 P moments and,
    if averaged, 4 P (half of each under bf16-true). DeepSpeed, without averaging: 2 P weights, 2 P gradients, 12 P
    optimizer; stage 1 divides the optimizer by N, stage 2 also the gradients, stage 3 also the weights.

    Reference: Rajbhandari et al. 2020 (arXiv:1910.02054), sec. 3.1 and fig. 1, with K = 12.
    """
    sizes, moments = element_sizes(precision, strategy), 2 * counts.all - counts.one_moment
    if not strategy.startswith("deepspeed"):
        each = _FP32 if precision != "bf16-true" else _BF16
        return StateMemory(
            weights=each * (counts.all + counts.target),
            gradients=each * counts.all,
            optimizer=each * (moments + averaged * counts.all),
            # DDP's reducer copies gradients into its own buckets (gradient_as_bucket_view=False, the default).
            buffers=(each * counts.all if num_ranks > 1 else 0) + (_BF16 * counts.matrices if sizes.autocast else 0),
        )
    stage = int(strategy[-1])
    return StateMemory(
        weights=sizes.values * counts.all // (num_ranks if stage >= 3 else 1),
        gradients=sizes.values * counts.all // (num_ranks if stage >= 2 else 1),
        optimizer=_FP32 * (counts.all + moments) // num_ranks,
        # Two alternating buckets (overlap_comm); stage 3 has one bucket and the gathered weights.
        buffers=sizes.values * (2 * _BUCKET_ELEMENTS if stage < 3 else _BUCKET_ELEMENTS + counts.all),
    )


def activation_bytes(passes: list[Pass], chunk_size: int, sizes: ElementSizes, *, checkpointing: bool) -> int:
    """Estimate of the bytes that autograd saves in the forward pass of one chunk.

    With gradient checkpointing: the input of every block and the activations of the largest one. The heads of a
    self-supervised loss, small layers on one vector per view, are left out.
    """
    images = sum(one.times * one.patch_values * chunk_size for one in passes) * sizes.values
    trained = [(one, one.times * one.tokens * chunk_size) for one in passes if one.trained]
    if not checkpointing:
        return images + sum(rows * _blocks_bytes(one, sizes) for one, rows in trained)
    inputs = sum(rows * one.width * one.depth for one, rows in trained) * sizes.residual
    return images + inputs + max(rows * block_bytes(one, sizes) for one, rows in trained)


def _blocks_bytes(one: Pass, sizes: ElementSizes) -> int:
    """Bytes that autograd saves in all blocks per token.

    A last block that computes one pooled token saves of the others the input and output of the first norm, and the
    projections.
    """
    if not one.pooled:
        return one.depth * block_bytes(one, sizes)
    return (one.depth - 1) * block_bytes(one, sizes) + one.width * (sizes.residual + 4 * sizes.values)


def block_bytes(one: Pass, sizes: ElementSizes) -> int:
    """Bytes that autograd saves in one block per token, with fused attention and no dropout.

    With width D and MLP width H, in values: the inputs of both norms (2 D, in the residual stream's dtype); the norms'
    outputs (2 D); queries, keys and values (3 D); attention's output (D); the MLP's hidden layer before and after its
    activation (2 H).

    Reference: the method of Korthikanti et al. 2022 (arXiv:2205.05198), sec. 4.1, applied to these blocks.
    """
    return 2 * one.width * sizes.residual + (6 * one.width + 2 * one.hidden) * sizes.values


def loss_memory(
    kind: ContrastiveKind,
    batch_size: int,
    negatives: int,
    *,
    num_crops: int,
    embed_dim: int,
    tile: int,
    precision: MatmulPrecision,
) -> LossMemory:
    """The contrastive loss on one rank.

    Args:
        kind: Of the loss.
        batch_size: Pairs of the device over all chunks, b.
        negatives: Pairs of the global batch, G.
        num_crops: Crops per pair.
        embed_dim: Width of the features.
        tile: Logits per pair that are computed at a time, t.
        precision: `loss.matmul_precision`, resolved.
    """
    halves = precision is MatmulPrecision.tf32x3
    matrices = 2 if halves or kind is ContrastiveKind.sigmoid else 1
    return LossMemory(
        features=2 * (num_crops + 1 + halves) * negatives * embed_dim * _FP32,
        full=matrices * batch_size * negatives * _FP32,
        tiled=matrices * batch_size * min(tile, negatives) * _FP32,
    )


def loss_precision(stage: Stage) -> MatmulPrecision:
    """`loss.matmul_precision` on the GPUs of `GPUS`, which all have TF32; float32 for MAE."""
    if isinstance(stage, MaskedPretrainExperiment):
        return MatmulPrecision.float32
    chosen = stage.loss.matmul_precision
    return MatmulPrecision.tf32x3 if chosen is MatmulPrecision.auto else chosen


def stage_loss_memory(stage: ContrastiveExperiment, plan: StagePlan, tile: int) -> LossMemory:
    """`loss_memory` of a stage, including NT-Xent for SimCLR; `tile` as there."""
    of_stage = partial(loss_memory, tile=tile, precision=loss_precision(stage))
    batch_size, negatives = plan.batch_size_per_device, stage.data.global_batch_size
    num_crops = stage.transform.num_global_crops + stage.transform.num_local_crops
    embed_dim = stage.dual_encoder.embed_dim
    loss = of_stage(stage.loss.kind, batch_size, negatives, num_crops=num_crops, embed_dim=embed_dim)
    if stage.self_supervision.method is not SelfSupervisionMethod.simclr:
        return loss
    # Two views of each image against two of every image; the logits of the two losses are not in memory together.
    info_nce, projection_dim = ContrastiveKind.info_nce, stage.self_supervision.projection_dim
    views = of_stage(info_nce, 2 * batch_size, 2 * negatives, num_crops=0, embed_dim=projection_dim)
    return LossMemory(
        features=loss.features + views.features, full=max(loss.full, views.full), tiled=max(loss.tiled, views.tiled)
    )


def rank_memory(
    stage: Stage, plan: StagePlan, counts: ParameterCounts, loss: LossMemory | None, strategy: str, available: int
) -> RankMemory:
    """All memory of one rank under a strategy; `available` are the bytes of the GPU."""
    passes, chunk_size, encoder = passes_of(stage), plan.chunk_size, stage.image_encoder
    averaged = stage.trainer.ema_decay is not None
    state = state_memory(counts, strategy, plan.precision, stage.trainer.num_processes, averaged=averaged)
    if isinstance(stage, ContrastiveExperiment) and loss:
        loss_bytes = loss.features + (loss.full if stage.loss.max_logits_per_pair is None else loss.tiled)
    else:  # prediction, target and error of every patch of a chunk, float32
        loss_bytes = 3 * chunk_size * encoder.num_patches * CHANNELS * encoder.patch_size**2 * _FP32
    sizes = element_sizes(plan.precision, strategy)
    activations = activation_bytes(passes, chunk_size, sizes, checkpointing=False)
    checkpointed = activation_bytes(passes, chunk_size, sizes, checkpointing=True)
    # The crops of all samples, uint8.
    batch = sum(one.times * one.input_values for one in passes) * plan.batch_size_per_device
    rest = state.total + batch + loss_bytes
    return RankMemory(
        strategy=strategy,
        state=state,
        activations=activations,
        activations_checkpointed=checkpointed,
        batch=batch,
        loss=loss_bytes,
        total=rest + activations,
        total_checkpointed=rest + checkpointed,
        fits=rest + activations <= 0.9 * available,
        fits_checkpointed=rest + checkpointed <= 0.9 * available,
    )
