"""The processes that `trainer.devices: auto` stands for, and the CPU threads of each process."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from kelip_lightning.distributed.accelerators import AUTO, num_gpus
from kelip_lightning.distributed.cores import usable_cores
from kelip_lightning.distributed.launchers import has_external_launcher, num_launched

if TYPE_CHECKING:
    from kelip_lightning.config.experiment import TrainerConfig

Experiment = TypeVar("Experiment")

MIN_SAMPLES = 32
"""Samples of a forward pass that a process of a CPU gets at least: with fewer, a second process gains little."""


def with_devices(experiment: Experiment) -> Experiment:
    """The experiment with a number in place of auto, the same in every stage: one command starts all processes.

    Args:
        experiment: Of one stage or several, or without any.
    """
    stages = _stages(experiment)
    automatic = {name: stage for name, stage in stages.items() if stage.trainer.devices == AUTO}
    if not automatic:
        return experiment
    given = [stage.trainer.devices for name, stage in stages.items() if name not in automatic]
    number = given[0] if given else choose_devices([stage.trainer for stage in automatic.values()], _samples(automatic))
    return _with_trainers(experiment, {name: {"devices": number} for name in automatic})


def with_threads(experiment: Experiment) -> Experiment:
    """The experiment with the number of threads that each process will have; may import torch.

    `num_threads: null` becomes an equal share of the cores where this command itself starts several processes on a
    CPU. Elsewhere it stays: it is torch's default, which launchers set by OMP_NUM_THREADS.
    """
    changed = {
        name: {"num_threads": max(1, usable_cores() // stage.trainer.num_devices)}
        for name, stage in _stages(experiment).items()
        if stage.trainer.num_threads is None and _shares_cpu(stage.trainer)
    }
    return _with_trainers(experiment, changed)


def _shares_cpu(trainer: "TrainerConfig") -> bool:
    return trainer.num_devices > 1 and not has_external_launcher() and not num_gpus(trainer.accelerator)


def _samples(stages: dict[str, Any]) -> list[int]:
    """Of each stage, the samples of a node in one forward pass."""
    return [
        stage.data.global_batch_size // (stage.trainer.num_nodes * stage.trainer.accumulate)
        for stage in stages.values()
    ]


def _stages(experiment: Any) -> dict[str, Any]:
    """Field -> each stage of an experiment; the empty name: it is a stage itself."""
    if hasattr(experiment, "trainer"):
        return {"": experiment}
    values = {field.name: getattr(experiment, field.name) for field in fields(experiment)}
    return {name: value for name, value in values.items() if hasattr(value, "trainer")}


def _with_trainers(experiment: Experiment, changes: dict[str, dict[str, Any]]) -> Experiment:
    """A copy with other values in the trainer of some stages."""
    changed: Any = experiment
    stages = _stages(experiment)
    for name, values in changes.items():
        stage = replace(stages[name], trainer=replace(stages[name].trainer, **values))
        changed = replace(changed, **{name: stage}) if name else stage
    result: Experiment = changed
    return result


def choose_devices(trainers: Sequence["TrainerConfig"], samples: Sequence[int]) -> int:
    """The processes of a node: those that a launcher has started, or as many as have an equal share of all `samples`.

    At most one per GPU; on a CPU each gets at least `MIN_SAMPLES` and `num_threads` cores, one if that is null.

    Args:
        trainers: Of the stages, all with `devices: auto`.
        samples: Of each stage, the samples of a node in one forward pass.
    """
    if (launched := num_launched(trainers[0].num_nodes)) is not None:
        return launched
    most = max(num_gpus(trainer.accelerator) for trainer in trainers)
    if not most:
        cores = usable_cores() // max(trainer.num_threads or 1 for trainer in trainers)
        most = min(cores, min(samples) // MIN_SAMPLES)
    return next((one for one in range(most, 1, -1) if not any(number % one for number in samples)), 1)
