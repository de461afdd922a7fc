"""Pairs per second and hours at a given utilisation.

All metrics here are estimates: they hold as far as the utilisation does that they are asked for.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Peak rates without sparsity, in operations per second, and memory; NVIDIA's data sheets."""

    name: str
    bf16: float
    fp32: float
    """Outside tensor cores: torch's default for float32 matrix products."""
    tf32: float
    memory_bytes: int


GPUS = {
    "a100": Gpu(name="A100 SXM 80 GB", bf16=312e12, fp32=19.5e12, tf32=156e12, memory_bytes=80 * 10**9),
    "h100": Gpu(name="H100 SXM 80 GB", bf16=989.4e12, fp32=66.9e12, tf32=494.7e12, memory_bytes=80 * 10**9),
    "h200": Gpu(name="H200 SXM 141 GB", bf16=989.4e12, fp32=66.9e12, tf32=494.7e12, memory_bytes=141 * 10**9),
}
"""What `kelip plan --gpu` knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How fast and how long, at one utilisation."""

    gpu: str
    utilisation: float
    """Model FLOPs utilisation asked for: useful operations over the peak, in (0, 1]; the loss's products have the same
    share of the peak of their own precision."""
    loss_share: float
    """Of the time, what the loss's products take, in [0, 1)."""
    samples_per_second_per_device: float
    samples_per_second: float
    crops_per_second_per_node: float
    """Crops that each node's loaders have to make."""
    images_per_second_per_node: float
    """Images that each node's loaders have to read and decode."""
    seconds_per_step: float
    hours: float
    device_hours: float
    hours_recomputed: float
    """With gradient checkpointing, if the hardware is as busy: a third more in the networks."""


def estimate_throughput(
    gpu: Gpu,
    utilisation: float,
    *,
    precision: str,
    training_flops: int,
    recomputed_flops: int,
    loss_flops: int,
    loss_in_halves: bool,
    crops_per_sample: int,
    global_batch_size: int,
    num_steps: int,
    devices_per_node: int,
    num_nodes: int,
) -> Throughput:
    """samples/s = devices x utilisation / (operations / peak + operations of the loss / their peak).

    With `loss_in_halves` the loss's products are three of TF32 halves where there was one of float32.

    Reference: Chowdhery et al. 2022 (arXiv:2204.02311), app. B (model FLOPs utilisation).
    """
    devices = devices_per_node * num_nodes
    peak = gpu.bf16 if precision.startswith("bf16") else gpu.fp32
    loss_seconds = 3 * loss_flops / gpu.tf32 if loss_in_halves else loss_flops / gpu.fp32
    seconds, recomputed_seconds = (
        (operations / peak + loss_seconds) / utilisation for operations in (training_flops, recomputed_flops)
    )
    rate = devices / seconds
    hours = global_batch_size * num_steps / rate / 3600
    return Throughput(
        gpu=gpu.name,
        utilisation=utilisation,
        loss_share=loss_seconds / utilisation / seconds,
        samples_per_second_per_device=1 / seconds,
        samples_per_second=rate,
        crops_per_second_per_node=rate / num_nodes * crops_per_sample,
        images_per_second_per_node=rate / num_nodes,
        seconds_per_step=global_batch_size / rate,
        hours=hours,
        device_hours=hours * devices,
        hours_recomputed=hours * recomputed_seconds / seconds,
    )
