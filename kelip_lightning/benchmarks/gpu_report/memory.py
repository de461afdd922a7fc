"""Peak memory of steps on the device against the estimate of `kelip plan`."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from data_modules.records import Batch
from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting
from kelip_lightning.benchmarks.gpu_report.steps import take_steps
from kelip_lightning.benchmarks.peak_memory import MEBIBYTE, PeakMemory
from kelip_lightning.benchmarks.step.batches import make_batches
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.growth import make_image_batches, masked_experiment_of
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting, architecture_of, experiment_of
from kelip_lightning.benchmarks.step.trainer_steps import build_module
from kelip_lightning.config.experiment import MaskedPretrainExperiment
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.planning.estimate import estimate
from kelip_lightning.planning.stage_plan import Stage
from kelip_lightning.training.stages import build_masked_pretrain_module

LOW, HIGH = 0.75, 1.25
"""Bounds of measured over estimated: the estimate leaves out short-lived results and what the allocator rounds up."""
STEPS = 3


def memory(setting: PartSetting, findings: Findings) -> None:
    """Contrastive steps of one and of two batch sizes, and a step of MAE pre-training, in bf16-mixed."""
    model, batch = (ModelName.tiny, 8) if setting.smoke else (ModelName.vit_b32, 256)
    step = StepSetting(model=model, batch=batch, device=setting.device, precision="bf16-mixed")
    for size in (batch, 2 * batch):
        larger = replace(step, batch=size)
        _compare(f"contrastive_{size}", experiment_of(larger, STEPS), larger, setting, findings)
    _compare(f"mae_{batch}", masked_experiment_of(step, 0.75, STEPS), step, setting, findings)


def _compare(name: str, experiment: Stage, step: StepSetting, setting: PartSetting, findings: Findings) -> None:
    (planned,) = estimate(experiment).values()
    expected = next(one.total for one in planned.memory if one.strategy == "ddp") / MEBIBYTE
    found = _peak(experiment, step)
    findings.note(**{f"{name}_estimated_MiB": expected})
    if found is None:
        return
    findings.note(**{f"{name}_peak_MiB": found, f"{name}_peak_over_estimate": found / expected})
    # On a CPU the memory of libraries outweighs that of a tiny model.
    findings.require(
        setting.smoke or LOW <= found / expected <= HIGH,
        f"{name}: a peak of {found:,.0f} MiB is {found / expected:.2f} times the estimate, allowed are {LOW} to {HIGH}",
    )


def _peak(experiment: Stage, step: StepSetting) -> float | None:
    """MiB above the memory before the model was made; `None`: it cannot be measured."""
    device, batches = torch.device(step.device), _batches(experiment, step)
    peak = PeakMemory(device)
    module: StageModule
    if isinstance(experiment, MaskedPretrainExperiment):
        module = build_masked_pretrain_module(experiment)
    else:
        module = build_module(step, STEPS)
    take_steps(experiment, module, batches, step.device, warmup=1, steps=STEPS - 1)
    return peak.mebibytes()


def _batches(experiment: Stage, step: StepSetting) -> Sequence[Batch]:
    if isinstance(experiment, MaskedPretrainExperiment):
        return make_image_batches(step, seed=0)
    # The estimate counts captions as long as the context.
    whole = CaptionLengths(name="whole", description="whole", shares={architecture_of(step).context_length: 1.0})
    return make_batches(step, whole, seed=0)
