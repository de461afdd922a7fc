"""The number of processes of `trainer.devices: auto`; imports torch only on a machine with an NVIDIA GPU."""

import os
from dataclasses import fields, replace
from math import gcd
from pathlib import Path
from typing import Any, TypeVar

from kelip_lightning.distributed.accelerators import AUTO

Experiment = TypeVar("Experiment")

MIN_SAMPLES = 32
"""Samples of a global batch that a process of a CPU gets at least."""
_LOCAL_WORLD_SIZES = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")
"""Set by torchrun and by Slurm."""


def with_devices(experiment: Experiment) -> Experiment:
    """The experiment with numbers of devices instead of auto, the same in every stage, and of threads."""
    stages = {name: stage for name, stage in _stages(experiment).items() if stage.trainer.devices == AUTO}
    if not stages:
        return experiment
    samples = (
        one.data.global_batch_size // (one.trainer.num_nodes * one.trainer.accumulate) for one in stages.values()
    )
    number, threads = choose_devices(next(iter(stages.values())).trainer.accelerator, gcd(*samples))
    changed: Any = experiment
    for name, stage in stages.items():
        trainer = replace(stage.trainer, devices=number, num_threads=stage.trainer.num_threads or threads)
        stage = replace(stage, trainer=trainer)
        changed = replace(changed, **{name: stage}) if name else stage
    result: Experiment = changed
    return result


def _stages(experiment: Any) -> dict[str, Any]:
    """Field -> each stage of an experiment; the empty name: it is a stage itself."""
    if hasattr(experiment, "trainer"):
        return {"": experiment}
    values = {field.name: getattr(experiment, field.name) for field in fields(experiment)}
    return {name: value for name, value in values.items() if hasattr(value, "trainer")}


def choose_devices(accelerator: str, samples_per_node: int) -> tuple[int, int | None]:
    """The processes of a node, as a launcher has started them, one per GPU or as suits its CPU; and their threads.

    Args:
        accelerator: `trainer.accelerator`.
        samples_per_node: Samples of a node's chunk of a global batch; a multiple of the result.

    Returns:
        Processes, and threads of each; `None`: torch's default.
    """
    launched = next((os.environ[name] for name in _LOCAL_WORLD_SIZES if name in os.environ), "")
    if launched.isdecimal() and int(launched):
        return int(launched), None
    if accelerator != "cpu" and Path("/dev/nvidiactl").exists():
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count(), None
    cores = usable_cores()
    most = min(cores, samples_per_node // MIN_SAMPLES)
    number = max((one for one in range(1, most + 1) if samples_per_node % one == 0), default=1)
    return number, cores // number


def usable_cores() -> int:
    """CPU cores of this process: those that it may run on, at most OMP_NUM_THREADS."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(limit))) if limit.isdecimal() else cores
