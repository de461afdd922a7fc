"""Estimated throughput and training time of a stage at an assumed model FLOPs utilisation (MFU)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `kelip --help` imports GPUS, and should not wait for torch
    from kelip_lightning.planning.flops import StageFlops
    from kelip_lightning.planning.stage_plan import Stage, StagePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Peak rates without sparsity, in operations per second, and memory; NVIDIA's data sheets."""

    name: str
    bf16: float
    fp32: float
    """Without tensor cores: torch's default for float32 matrix products."""
    tf32: float
    memory_bytes: int


GPUS = {
    "a100": Gpu(name="A100 SXM 80 GB", bf16=312e12, fp32=19.5e12, tf32=156e12, memory_bytes=80 * 10**9),
    "h100": Gpu(name="H100 SXM 80 GB", bf16=989.4e12, fp32=66.9e12, tf32=494.7e12, memory_bytes=80 * 10**9),
    "h200": Gpu(name="H200 SXM 141 GB", bf16=989.4e12, fp32=66.9e12, tf32=494.7e12, memory_bytes=141 * 10**9),
}
"""Choices of `kelip plan --gpu`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Rates and durations at one utilisation."""

    gpu: str
    utilisation: float
    """Model FLOPs utilisation: operations over the peak, in (0, 1], for the networks and for the loss alike."""
    loss_share: float
    """Share of the time spent in the matrix products of the loss, in [0, 1)."""
    samples_per_second_per_device: float
    samples_per_second: float
    crops_per_second_per_node: float
    """Crops and views that the loaders of one node have to make."""
    images_per_second_per_node: float
    """Images that the loaders of one node have to read and decode."""
    seconds_per_step: float
    hours: float
    device_hours: float
    hours_recomputed: float
    """With gradient checkpointing at the same hardware utilisation: the networks take a third longer."""


def estimate_throughput(
    gpu: Gpu, utilisation: float, stage: "Stage", plan: "StagePlan", flops: "StageFlops", *, tf32x3: bool
) -> Throughput:
    """samples/s = devices x utilisation / (operations / peak + operations of the loss / their peak).

    With `tf32x3` the loss makes three TF32 products instead of one in float32.

    Reference: Chowdhery et al. 2022 (arXiv:2204.02311), app. B (model FLOPs utilisation).
    """
    num_nodes, devices = stage.trainer.num_nodes, stage.trainer.num_processes
    peak = gpu.bf16 if plan.precision.startswith("bf16") else gpu.fp32
    loss_seconds = 3 * flops.loss_training / gpu.tf32 if tf32x3 else flops.loss_training / gpu.fp32
    seconds, recomputed_seconds = (
        (operations / peak + loss_seconds) / utilisation for operations in (flops.training, flops.training_recomputed)
    )
    rate = devices / seconds
    hours = plan.samples_seen / rate / 3600
    return Throughput(
        gpu=gpu.name,
        utilisation=utilisation,
        loss_share=loss_seconds / utilisation / seconds,
        samples_per_second_per_device=1 / seconds,
        samples_per_second=rate,
        crops_per_second_per_node=rate / num_nodes * (plan.images_forwarded // plan.samples_seen),
        images_per_second_per_node=rate / num_nodes,
        seconds_per_step=stage.data.global_batch_size / rate,
        hours=hours,
        device_hours=hours * devices,
        hours_recomputed=hours * recomputed_seconds / seconds,
    )
