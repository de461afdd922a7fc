"""All metrics of an experiment, stage by stage: what `kelip plan` prints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kelip_lightning.config.experiment import ContrastiveExperiment, Experiment, MaskedPretrainExperiment
from kelip_lightning.losses.contrastive import ContrastiveKind
from kelip_lightning.losses.tiles import MatmulPrecision
from kelip_lightning.models.self_supervision import SelfSupervisionMethod
from kelip_lightning.planning.flops import StageFlops, count_flops, evaluation_flops, negatives
from kelip_lightning.planning.groups import PlannedGroup, planned_groups
from kelip_lightning.planning.memory import (
    STRATEGIES,
    LossMemory,
    ParameterCounts,
    StateMemory,
    activation_bytes,
    batch_bytes,
    count_state,
    loss_memory,
    numbers_of,
    reconstruction_bytes,
    state_memory,
)
from kelip_lightning.planning.passes import CHANNELS, passes_of
from kelip_lightning.planning.stage_plan import (
    Stage,
    StagePlan,
    crops_per_sample,
    disk_bytes,
    plan_stage,
    stages_of,
    views_per_sample,
)
from kelip_lightning.planning.throughput import GPUS, Throughput, estimate_throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on one rank under one strategy; see `memory` for what is exact."""

    strategy: str
    state: StateMemory
    activations: int
    activations_checkpointed: int
    batch: int
    """Crops before the networks."""
    loss: int
    """Features and the full matrix, or a chunk of it with loss.max_logits_per_pair; of MAE the predicted patches."""
    total: int
    total_checkpointed: int
    fits: bool
    """Whether `total` leaves a tenth of the GPU's memory free."""
    fits_checkpointed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """Bytes on disk."""

    checkpoint: int
    """Weights, moments and any moving average as they are trained with (float32, or bfloat16 under bf16-true): one
    file."""
    zero_checkpoint: int
    """The same of a DeepSpeed strategy, over the files of all ranks: weights as calculated with, float32 weights,
    moments."""
    exported: int
    """Weights alone."""
    whole_run: int
    """What the run's folder may take, as checked before a run starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCost:
    """Operations of the evaluations during contrastive training, forward only."""

    times: int
    """Evaluations, the first (before training) and the last included."""
    flops_per_image: int
    flops_per_caption: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEstimate:
    """One stage."""

    plan: StagePlan
    strategy: str
    """As configured."""
    parameter_sums: dict[str, int]
    """Towers, where there are any, and all."""
    groups: list[PlannedGroup]
    """What the optimizer does with which parameters."""
    flops: StageFlops
    memory: list[RankMemory]
    contrastive_loss: LossMemory | None
    tile: int
    throughput: Throughput
    disk: DiskSpace
    evaluation: EvaluationCost | None


def estimate(
    experiment: Experiment,
    *,
    gpu: str = "a100",
    utilisation: float = 0.4,
    tile: int = 1024,
    samples_per_epoch: Mapping[str, int] | None = None,
) -> dict[str, StageEstimate]:
    """Stage -> its metrics.

    Args:
        experiment: A valid experiment.
        gpu: Key of `GPUS`.
        utilisation: Model FLOPs utilisation, in (0, 1].
        tile: Columns of a tile of the contrastive loss, for a stage without loss.max_logits_per_pair.
        samples_per_epoch: Stage -> length of one epoch; none: epochs stay open.
    """
    lengths = samples_per_epoch or {}
    return {
        name: _estimate_stage(stage, plan_stage(stage, lengths.get(name)), gpu, utilisation, tile)
        for name, stage in stages_of(experiment).items()
    }


def to_dict(stages: Mapping[str, StageEstimate]) -> dict[str, Any]:
    """Plain values."""
    return {name: asdict(stage) for name, stage in stages.items()}


def _estimate_stage(stage: Stage, plan: StagePlan, gpu: str, utilisation: float, tile: int) -> StageEstimate:
    flops, counts = count_flops(stage), count_state(stage)
    if isinstance(stage, ContrastiveExperiment):
        tile = stage.loss.max_logits_per_pair or tile
    loss = _contrastive_loss(stage, plan, tile)
    return StageEstimate(
        plan=plan,
        strategy=stage.trainer.strategy,
        parameter_sums=plan.parameter_sums,
        groups=planned_groups(stage),
        flops=flops,
        memory=[_rank_memory(stage, plan, counts, loss, one, GPUS[gpu].memory_bytes) for one in STRATEGIES],
        contrastive_loss=loss,
        tile=tile,
        throughput=estimate_throughput(
            GPUS[gpu],
            utilisation,
            precision=plan.precision,
            training_flops=flops.training,
            recomputed_flops=flops.training_recomputed,
            loss_flops=flops.loss_training,
            loss_in_halves=loss_precision(stage) is MatmulPrecision.tf32x3,
            crops_per_sample=sum(crops_per_sample(stage)) + views_per_sample(stage),
            global_batch_size=stage.data.global_batch_size,
            num_steps=plan.max_steps,
            devices_per_node=stage.trainer.devices,
            num_nodes=stage.trainer.num_nodes,
        ),
        disk=_disk_space(stage, plan, counts),
        evaluation=_evaluation_cost(stage),
    )


def loss_precision(stage: Stage) -> MatmulPrecision:
    """How a stage's loss multiplies on the GPUs that a plan is for, all of which have TF32; MAE: float32."""
    if isinstance(stage, MaskedPretrainExperiment):
        return MatmulPrecision.float32
    chosen = stage.loss.matmul_precision
    return MatmulPrecision.tf32x3 if chosen is MatmulPrecision.auto else chosen


def _contrastive_loss(stage: Stage, plan: StagePlan, tile: int) -> LossMemory | None:
    """None in MAE pre-training."""
    if isinstance(stage, MaskedPretrainExperiment):
        return None
    loss = loss_memory(
        stage.loss.kind,
        batch_size=plan.batch_size_per_device,
        negatives=negatives(stage),
        num_crops=sum(crops_per_sample(stage)),
        embed_dim=stage.dual_encoder.embed_dim,
        tile=tile,
        precision=loss_precision(stage),
    )
    if stage.self_supervision.method is not SelfSupervisionMethod.simclr:
        return loss
    # Two views of each image against two of all; its logits and those of the contrastive loss are not there at once.
    views = loss_memory(
        ContrastiveKind.info_nce,
        batch_size=2 * plan.batch_size_per_device,
        negatives=2 * negatives(stage),
        num_crops=0,
        embed_dim=stage.self_supervision.projection_dim,
        tile=tile,
        precision=loss_precision(stage),
    )
    return LossMemory(
        features=loss.features + views.features, full=max(loss.full, views.full), tiled=max(loss.tiled, views.tiled)
    )


def _rank_memory(
    stage: Stage, plan: StagePlan, counts: ParameterCounts, loss: LossMemory | None, strategy: str, available: int
) -> RankMemory:
    passes, chunk_size = passes_of(stage), plan.chunk_size
    numbers = numbers_of(plan.precision, strategy)
    num_ranks, averaged = stage.trainer.num_processes, stage.trainer.ema_decay is not None
    state = state_memory(counts, strategy, plan.precision, num_ranks, averaged=averaged)
    encoder = stage.image_encoder
    if isinstance(stage, ContrastiveExperiment) and loss:
        loss_bytes = loss.features + (loss.full if stage.loss.max_logits_per_pair is None else loss.tiled)
    else:
        loss_bytes = reconstruction_bytes(chunk_size, encoder.num_patches, CHANNELS * encoder.patch_size**2)
    activations = activation_bytes(passes, chunk_size, numbers, checkpointing=False)
    checkpointed = activation_bytes(passes, chunk_size, numbers, checkpointing=True)
    batch = batch_bytes(passes, plan.batch_size_per_device, chunk_size)
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


def _disk_space(stage: Stage, plan: StagePlan, counts: ParameterCounts) -> DiskSpace:
    each = 2 if plan.precision == "bf16-true" else 4
    moments = 2 * counts.all - counts.one_moment
    average = counts.all if stage.trainer.ema_decay is not None else 0
    sharded = numbers_of(plan.precision, STRATEGIES[-1]).values
    return DiskSpace(
        checkpoint=each * (counts.all + counts.target + moments + average),
        zero_checkpoint=sharded * counts.all + 4 * (counts.all + moments),
        exported=each * (counts.all - counts.heads),
        whole_run=disk_bytes(stage, plan),
    )


def _evaluation_cost(stage: Stage) -> EvaluationCost | None:
    """None where nothing is evaluated."""
    if not isinstance(stage, ContrastiveExperiment):
        return None
    evaluation = stage.evaluation
    if not (evaluation.retrieval or evaluation.captions or evaluation.classification):
        return None
    steps, every = stage.schedule.max_steps, evaluation.every_n_steps
    image, caption = evaluation_flops(stage)
    return EvaluationCost(
        times=1 + steps // every + (steps % every > 0), flops_per_image=image, flops_per_caption=caption
    )
