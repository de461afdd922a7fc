"""The estimate of an experiment, stage by stage: what `kelip plan` prints."""

from collections.abc import Mapping
from dataclasses import dataclass

from kelip_lightning.config.experiment import ContrastiveExperiment, Experiment
from kelip_lightning.losses.config import MatmulPrecision
from kelip_lightning.planning.flops import StageFlops, count_flops, evaluation_flops
from kelip_lightning.planning.memory import (
    STRATEGIES,
    LossMemory,
    ParameterCounts,
    PlannedGroup,
    RankMemory,
    count_state,
    element_sizes,
    loss_precision,
    planned_groups,
    rank_memory,
    stage_loss_memory,
)
from kelip_lightning.planning.stage_plan import (
    Stage,
    StagePlan,
    disk_bytes,
    make_stage_plan,
    shared_memory_bytes,
    stages_of,
)
from kelip_lightning.planning.throughput import GPUS, Throughput, estimate_throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """Bytes on disk."""

    checkpoint: int
    """Weights, optimizer moments and any moving average in one file, in the dtype of the weights."""
    zero_checkpoint: int
    """The same of a DeepSpeed strategy, over the files of all ranks; it holds float32 weights too."""
    exported: int
    """Weights alone."""
    whole_run: int
    """Upper bound for the run folder, checked before a run starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCost:
    """Operations of the evaluations during contrastive training, forward only."""

    times: int
    """Evaluations, including the first (before training) and the last."""
    flops_per_image: int
    flops_per_caption: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEstimate:
    """One stage."""

    plan: StagePlan
    strategy: str
    """As configured."""
    parameter_sums: dict[str, int]
    """As in the plan."""
    groups: list[PlannedGroup]
    flops: StageFlops
    memory: list[RankMemory]
    """One per strategy of `STRATEGIES`."""
    contrastive_loss: LossMemory | None
    """`None` for MAE."""
    tile: int
    """Logits per pair of `contrastive_loss.tiled`."""
    throughput: Throughput
    disk: DiskSpace
    shared_memory: int
    """Bytes of a rank's batches that its loader processes make ahead; a machine needs as much for each of its ranks."""
    evaluation: EvaluationCost | None
    """`None` without evaluation sets."""


def estimate(
    experiment: Experiment,
    *,
    gpu: str = "a100",
    utilisation: float = 0.4,
    tile: int = 1024,
    samples_per_epoch: Mapping[str, int] | None = None,
) -> dict[str, StageEstimate]:
    """Stage -> its estimate.

    Args:
        experiment: A valid experiment.
        gpu: Key of `GPUS`.
        utilisation: Model FLOPs utilisation, in (0, 1].
        tile: Logits per pair of a chunk of the contrastive loss, for a stage without loss.max_logits_per_pair.
        samples_per_epoch: Stage -> length of one epoch; without it, epochs are `None`.
    """
    lengths = samples_per_epoch or {}
    return {
        name: _estimate_stage(stage, make_stage_plan(stage, lengths.get(name)), gpu, utilisation, tile)
        for name, stage in stages_of(experiment).items()
    }


def _estimate_stage(stage: Stage, plan: StagePlan, gpu: str, utilisation: float, tile: int) -> StageEstimate:
    flops, counts, loss = count_flops(stage), count_state(stage), None
    if isinstance(stage, ContrastiveExperiment):
        tile = stage.loss.max_logits_per_pair or tile
        loss = stage_loss_memory(stage, plan, tile)
    tf32x3 = loss_precision(stage) is MatmulPrecision.tf32x3
    return StageEstimate(
        plan=plan,
        strategy=stage.trainer.strategy,
        parameter_sums=plan.parameter_sums,
        groups=planned_groups(stage),
        flops=flops,
        memory=[rank_memory(stage, plan, counts, loss, one, GPUS[gpu].memory_bytes) for one in STRATEGIES],
        contrastive_loss=loss,
        tile=tile,
        throughput=estimate_throughput(GPUS[gpu], utilisation, stage, plan, flops, tf32x3=tf32x3),
        disk=_disk_space(stage, plan, counts),
        shared_memory=shared_memory_bytes(stage, plan),
        evaluation=_evaluation_cost(stage, flops) if isinstance(stage, ContrastiveExperiment) else None,
    )


def _disk_space(stage: Stage, plan: StagePlan, counts: ParameterCounts) -> DiskSpace:
    each = 2 if plan.precision == "bf16-true" else 4
    moments = 2 * counts.all - counts.one_moment
    average = counts.all if stage.trainer.ema_decay is not None else 0
    sharded = element_sizes(plan.precision, STRATEGIES[-1]).values
    return DiskSpace(
        checkpoint=each * (counts.all + counts.target + moments + average),
        zero_checkpoint=sharded * counts.all + 4 * (counts.all + moments),
        exported=each * (counts.all - counts.heads),
        whole_run=disk_bytes(stage, plan),
    )


def _evaluation_cost(stage: ContrastiveExperiment, flops: StageFlops) -> EvaluationCost | None:
    evaluation = stage.evaluation
    if not evaluation.has_sets:
        return None
    steps = stage.schedule.max_steps
    every = evaluation.every_n_steps or steps
    image, caption = evaluation_flops(stage, flops)
    times = 1 + steps // every + (steps % every > 0)
    return EvaluationCost(times=times, flops_per_image=image, flops_per_caption=caption)
