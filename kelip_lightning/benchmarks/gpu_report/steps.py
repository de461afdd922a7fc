"""Short fits on fixed batches: under other strategies, precisions and compiled, and of MAE pre-training."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import lightning.pytorch as pl
import torch

from data_modules.records import Batch
from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting, PartSkippedError
from kelip_lightning.benchmarks.processes import in_fresh_process
from kelip_lightning.benchmarks.step.batches import make_batches
from kelip_lightning.benchmarks.step.captions import cc3m_like_lengths
from kelip_lightning.benchmarks.step.clock import StepClock
from kelip_lightning.benchmarks.step.growth import Case, make_image_batches, masked_experiment_of, measure_growth
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting, architecture_of, experiment_of
from kelip_lightning.benchmarks.step.trainer_steps import build_module, fit
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.planning.stage_plan import Stage
from kelip_lightning.training.stages import build_masked_pretrain_module

EXACT_BOUND, ZERO_BOUND = 1e-5, 1e-4
"""Largest relative difference of a loss in float32 from that of one process, under DDP and ZeRO-2; DeepSpeed sums the
gradients of a step in another order."""
BF16_BOUND = 0.03
"""The same of a loss in bf16-mixed from one in float32."""
COMPILED_BOUND = 0.02
"""The same of a loss of compiled towers from that of eager ones in bf16-mixed, where fused operations round less."""
CPU_BOUND = 1e-4
"""The same of a loss in float32 from the CPU's."""
NO_COMPILER = "torch.compile needs a C++ compiler; install g++ or clang"
NO_DEEPSPEED = "left out: DeepSpeed is not installed; install kelip-lightning[deepspeed]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Steps of a fit."""

    losses: list[float]
    """Of each step, the untimed ones first."""
    seconds: float
    """Of a timed step on average."""


class LossesCallback(pl.Callback):
    """Keeps the loss of every step, and stops the fit after the last one of a clock."""

    def __init__(self, clock: StepClock) -> None:
        super().__init__()
        self._clock = clock
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep loss and time, without waiting for the device."""
        self.losses.append(outputs["loss"].detach().clone())
        trainer.should_stop = self._clock.step_ended(outputs["loss"])


def take_steps(
    experiment: Stage, module: StageModule, batches: Sequence[Batch], device: str, *, warmup: int, steps: int
) -> Taken:
    """Fit as a run does on fixed batches in turn.

    Args:
        experiment: Of more than `warmup + steps` steps.
        module: Its module.
        batches: Of one device.
        device: Cpu or cuda.
        warmup: Steps before the timed ones, >= 1.
        steps: Timed steps.
    """
    clock = StepClock(torch.device(device), warmup, steps)
    callback = LossesCallback(clock)
    fit(experiment, module, batches, clock.num_steps, callback)
    return Taken(losses=[float(one) for one in callback.losses], seconds=clock.times().seconds / steps)


def contrastive_steps(setting: StepSetting, strategy: str, warmup: int, steps: int) -> Taken:
    """Contrastive steps under a strategy, from the same weights on the same batches for every one."""
    experiment = experiment_of(setting, warmup + steps)
    experiment = replace(experiment, trainer=replace(experiment.trainer, strategy=strategy))
    batches = make_batches(setting, cc3m_like_lengths(), seed=0)
    module = build_module(setting, warmup + steps)
    with float32_convolutions():
        return take_steps(experiment, module, batches, setting.device, warmup=warmup, steps=steps)


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """Convolutions of GPUs in float32, which by default have the 11 bits of TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def small_setting(setting: PartSetting) -> StepSetting:
    """Steps of the emoji experiment's model in float32; of a tiny one in a smoke test."""
    model, batch = (ModelName.tiny, 8) if setting.smoke else (ModelName.emoji, 256)
    return StepSetting(model=model, batch=batch, device=setting.device)


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative difference of two losses of the same step; infinite with a NaN."""
    differences = [abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True)]
    return max(one if one == one else float("inf") for one in differences)


def strategies(setting: PartSetting, findings: Findings) -> None:
    """One process without a strategy against DDP and ZeRO-2, over NCCL on a GPU and gloo on a CPU."""
    warmup, steps = 2, 3 if setting.smoke else 10
    exact = small_setting(setting)
    mixed = replace(exact, precision="bf16-mixed")

    def losses(step: StepSetting, strategy: str) -> list[float]:
        # A process group and DeepSpeed's engine last as long as their process.
        return in_fresh_process(None, contrastive_steps, step, strategy, warmup, steps).losses

    expected = losses(exact, "auto")
    findings.note(one_process_last_loss=expected[-1])
    cases = {"ddp": (exact, "ddp", EXACT_BOUND)}
    if find_spec("deepspeed") is None:
        findings.note(zero_2=NO_DEEPSPEED)
    else:
        cases["zero_2"] = (exact, "deepspeed_stage_2", ZERO_BOUND)
        cases["zero_2_bf16"] = (mixed, "deepspeed_stage_2", BF16_BOUND)
    for name, (step, strategy, bound) in cases.items():
        difference = largest_difference(losses(step, strategy), expected)
        findings.note(**{f"{name}_relative_difference": difference})
        findings.require(difference <= bound, f"{name}: a loss differs by {difference:.1e}, allowed are {bound:.0e}")


def compiled(setting: PartSetting, findings: Findings) -> None:
    """Losses and times of the same steps in float32, in bf16-mixed, and in bf16-mixed with compiled towers."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise PartSkippedError(NO_COMPILER)
    exact = small_setting(setting)
    mixed = replace(exact, precision="bf16-mixed")
    taken = {}
    for name, step in {"float32": exact, "bf16": mixed, "compiled": replace(mixed, compile=True)}.items():
        taken[name] = contrastive_steps(step, "auto", 5, 3 if setting.smoke else 20)
        findings.note(**{f"{name}_ms": 1000 * taken[name].seconds, f"{name}_last_loss": taken[name].losses[-1]})
    for name, reference, bound in (("bf16", "float32", BF16_BOUND), ("compiled", "bf16", COMPILED_BOUND)):
        difference = largest_difference(taken[name].losses, taken[reference].losses)
        findings.note(**{f"{name}_relative_difference": difference})
        findings.require(
            difference <= bound, f"{name}: a loss differs from {reference} by {difference:.1e}, allowed are {bound:.0e}"
        )


def masked(setting: PartSetting, findings: Findings) -> None:
    """MAE pre-training: the loss of steps in float32 against the CPU's, and time against counted operations."""
    small = small_setting(setting)
    small = replace(small, batch=min(small.batch, 64))
    losses = [_masked_losses(replace(small, device=device)) for device in (setting.device, "cpu")]
    difference = largest_difference(*losses)
    findings.note(relative_difference_from_cpu=difference)
    findings.require(
        difference <= CPU_BOUND, f"a loss differs from the CPU's by {difference:.1e}, allowed are {CPU_BOUND:.0e}"
    )
    model, batch = (ModelName.tiny, 8) if setting.smoke else (ModelName.vit_b32, 256)
    step = StepSetting(model=model, batch=batch, device=setting.device, precision="bf16-mixed")
    ratios = {"one_patch": 1 / architecture_of(step).image.num_patches, "three_quarters": 0.75}
    cases = [Case(name=name, reference=None, setting=step, mask_ratio=ratio) for name, ratio in ratios.items()]
    found = measure_growth(cases, cc3m_like_lengths(), 0, 3, 3 if setting.smoke else 10)
    for name in ratios:
        findings.note(**{f"{name}_images_per_second": 1 / found.seconds[name]})
        findings.note(**{f"{name}_tflop_per_second": found.flops[name] / found.seconds[name] / 1e12})
    time, operations = (values["three_quarters"] / values["one_patch"] for values in (found.seconds, found.flops))
    findings.note(ratio_of_times=time, ratio_of_operations=operations)


def _masked_losses(setting: StepSetting) -> list[float]:
    experiment = masked_experiment_of(setting, 0.75, 4)
    module, batches = build_masked_pretrain_module(experiment), make_image_batches(setting, seed=0)
    with float32_convolutions():
        return take_steps(experiment, module, batches, setting.device, warmup=1, steps=3).losses
