"""Memory of one rank while it trains.

The model's state follows exactly from the number of parameters. Activations are an estimate: what autograd keeps in
eager mode with fused attention, which `torch.compile` lowers; the tests compare it with what autograd really saves.
The allocator's fragmentation, CUDA's context and the collectives' own buffers (together some 2-4 GB) are left out.
"""

from dataclasses import dataclass

from torch import nn

from kelip_lightning.losses.contrastive import ContrastiveKind
from kelip_lightning.losses.tiles import MatmulPrecision
from kelip_lightning.optim.optimizers import OptimizerName
from kelip_lightning.optim.roles import Role, roles_of
from kelip_lightning.planning.passes import Pass
from kelip_lightning.planning.stage_plan import Stage, build_branch_on_meta, build_on_meta

STRATEGIES: tuple[str, ...] = ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
"""How ranks share the model's state; one process without a strategy holds what DDP holds, less its buckets."""

_FP32, _BF16 = 4, 2
_BUCKET_ELEMENTS = 200_000_000
"""`reduce_bucket_size` that Lightning's DeepSpeedStrategy gives DeepSpeed, which allocates it whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Parameters by what memory they need."""

    all: int
    matrices: int
    """Weight matrices, of which autocast keeps a copy in bfloat16 while a step runs."""
    one_moment: int
    """Those whose optimizer keeps one moment (Muon's), not two (AdamW's)."""
    heads: int = 0
    """Those of a self-supervised loss, which exports leave out."""
    target: int = 0
    """BYOL's moving average, not among all of them: weights without gradients and moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Bytes of the numbers that a step calculates with."""

    values: int
    """Of what matrix products read and write."""
    residual: int
    """Of the residual stream, which the LayerNorms read."""
    autocast: bool
    """Whether float32 parameters and norm outputs are cast for every matrix product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMemory:
    """Bytes on one rank that do not depend on the batch."""

    weights: int
    gradients: int
    optimizer: int
    """Moments, DeepSpeed's float32 copy of the weights, and their moving average where one is kept."""
    buffers: int
    """Estimate: what gradients are averaged in, and casts of the weights."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class LossMemory:
    """Bytes on one rank that the contrastive loss needs, and NT-Xent where it stands beside it."""

    features: int
    """Features of all ranks for every crop and caption, and their gradients, float32; halves of one kind of them."""
    full: int
    """The logits of one crop in one direction, float32: b G x 4. The sigmoid loss copies them, products of halves need
    their gradient in two: either is twice that."""
    tiled: int
    """The same of one tile: b t x 4, or twice that. Nothing of either is kept for the backward pass."""


def numbers_of(precision: str, strategy: str) -> Numbers:
    """What a precision means under a strategy.

    DeepSpeed casts the whole model to bfloat16 under bf16-mixed as under bf16-true and keeps float32 copies of the
    parameters in the optimizer; elsewhere bf16-mixed is autocast, which leaves parameters and residual stream float32.
    """
    if not precision.startswith("bf16"):
        return Numbers(values=_FP32, residual=_FP32, autocast=False)
    autocast = precision == "bf16-mixed" and not strategy.startswith("deepspeed")
    return Numbers(values=_BF16, residual=_FP32 if autocast else _BF16, autocast=autocast)


def count_state(stage: Stage) -> ParameterCounts:
    """The parameters of a stage's model, from the modules themselves."""
    branch = build_branch_on_meta(stage)
    of_branch = [] if branch is None else _sizes(branch)
    heads = [(role, size) for role, size, trained in of_branch if trained]
    sizes = [*((role, size) for role, size, _ in _sizes(build_on_meta(stage))), *heads]
    muon = stage.optimizer.name is OptimizerName.muon
    return ParameterCounts(
        all=sum(size for _, size in sizes),
        matrices=sum(size for role, size in sizes if role.decays),
        one_moment=sum(size for role, size in sizes if muon and role is Role.block_matrix),
        heads=sum(size for _, size in heads),
        target=sum(size for _, size, trained in of_branch if not trained),
    )


def _sizes(model: nn.Module) -> list[tuple[Role, int, bool]]:
    """What each parameter is, its number of values, and whether it is trained."""
    roles = roles_of(model)
    return [(roles[name], one.numel(), one.requires_grad) for name, one in model.named_parameters()]


def state_memory(
    counts: ParameterCounts, strategy: str, precision: str, num_ranks: int, *, averaged: bool = False
) -> StateMemory:
    """The model's state on one rank.

    With P parameters and N ranks, in bf16 with AdamW: DDP 4 P weights, 4 P gradients, 8 P moments and 4 P for a moving
    average of the weights (in bf16-true half of each); DeepSpeed, which keeps no average, 2 P weights, 2 P gradients,
    12 P optimizer, of which stage 1 divides the optimizer by N, stage 2 the gradients too, and stage 3 all.

    Reference: Rajbhandari et al. 2020 (arXiv:1910.02054), sec. 3.1 and fig. 1, with K = 12.
    """
    numbers, moments = numbers_of(precision, strategy), 2 * counts.all - counts.one_moment
    if not strategy.startswith("deepspeed"):
        each = _FP32 if precision != "bf16-true" else _BF16
        return StateMemory(
            weights=each * (counts.all + counts.target),
            gradients=each * counts.all,
            optimizer=each * (moments + averaged * counts.all),
            # torch's reducer copies gradients into buckets of its own (gradient_as_bucket_view=False, the default).
            buffers=(each * counts.all if num_ranks > 1 else 0) + (_BF16 * counts.matrices if numbers.autocast else 0),
        )
    stage = int(strategy[-1])
    return StateMemory(
        weights=numbers.values * counts.all // (num_ranks if stage >= 3 else 1),
        gradients=numbers.values * counts.all // (num_ranks if stage >= 2 else 1),
        optimizer=_FP32 * (counts.all + moments) // num_ranks,
        # Two buckets that take turns (overlap_comm); stage 3 has one, and gathers weights beside it.
        buffers=numbers.values * (2 * _BUCKET_ELEMENTS if stage < 3 else _BUCKET_ELEMENTS + counts.all),
    )


def activation_bytes(passes: list[Pass], chunk_size: int, numbers: Numbers, *, checkpointing: bool) -> int:
    """What autograd keeps of the networks for the backward pass of one chunk. Estimate.

    With checkpointing, the input of every block and the inside of the largest one. The heads of a self-supervised loss
    are left out: three layers on one vector of a view.
    """
    images = sum(one.times * one.input_values * chunk_size for one in passes)
    passes = [one for one in passes if one.trained]
    runs = [one.times * one.tokens * chunk_size for one in passes]
    if checkpointing:
        inputs = sum(rows * numbers.residual * one.width * one.depth for rows, one in zip(runs, passes, strict=True))
        kept = inputs + max(rows * block_bytes(one, numbers) for rows, one in zip(runs, passes, strict=True))
    else:
        kept = sum(rows * block_bytes(one, numbers) * one.depth for rows, one in zip(runs, passes, strict=True))
    return kept + images * numbers.values


def block_bytes(one: Pass, numbers: Numbers) -> int:
    """What autograd keeps of one block per token, with fused attention and no dropout.

    With width D and MLP width H, in values: the inputs of both norms (2 D, in the residual stream's bytes); the norms'
    outputs (2 D; under autocast three matrices for queries, keys and values make a cast each: 4 D); queries, keys and
    values (3 D); attention's output (D); the MLP's hidden layer before and after its activation (2 H; quick_gelu
    keeps its sigmoid too: 3 H).

    Reference: the method of Korthikanti et al. 2022 (arXiv:2205.05198), sec. 4.1, for these blocks.
    """
    norm_outputs = 4 if one.separate_qkv and numbers.autocast else 2
    hidden = (3 if one.quick_gelu else 2) * one.hidden
    return 2 * one.width * numbers.residual + ((norm_outputs + 4) * one.width + hidden) * numbers.values


def batch_bytes(passes: list[Pass], batch_size: int, chunk_size: int) -> int:
    """The crops of a device's samples as they arrive (uint8), and those of one chunk of them standardised (float32)."""
    return sum(one.times * one.input_values for one in passes) * (batch_size + chunk_size * _FP32)


def loss_memory(
    kind: ContrastiveKind,
    *,
    batch_size: int,
    negatives: int,
    num_crops: int,
    embed_dim: int,
    tile: int,
    precision: MatmulPrecision,
) -> LossMemory:
    """The contrastive loss on one rank with b pairs against G = `negatives` and V = `num_crops`.

    b are all pairs of the device: the networks take them in chunks, and the loss, for which the features of every chunk
    are kept, takes them at once.
    """
    halves = precision is MatmulPrecision.tf32x3
    matrices = 2 if halves or kind is ContrastiveKind.sigmoid else 1
    return LossMemory(
        features=2 * (num_crops + 1 + halves) * negatives * embed_dim * _FP32,
        full=matrices * batch_size * negatives * _FP32,
        tiled=matrices * batch_size * min(tile, negatives) * _FP32,
    )


def reconstruction_bytes(chunk_size: int, num_patches: int, patch_values: int) -> int:
    """Prediction, target and error of every patch of a chunk, float32; the MAE stage's loss is a sum over chunks."""
    return 3 * chunk_size * num_patches * patch_values * _FP32
