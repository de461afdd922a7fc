"""Steps of ViT-B/32 with growing batches beside open_clip's, as `kelip benchmark step` measures them."""

import gc
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting, PartSkippedError
from kelip_lightning.benchmarks.gpu_report.steps import NO_COMPILER
from kelip_lightning.benchmarks.processes import in_fresh_process
from kelip_lightning.benchmarks.step.agreement import compare_steps
from kelip_lightning.benchmarks.step.captions import cc3m_like_lengths
from kelip_lightning.benchmarks.step.peers import LONGEST, OURS, PADDED, PLAIN, peers_of
from kelip_lightning.benchmarks.step.rounds import Round, RoundPlan, measure_round, pairs_per_second
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting

BATCHES = (256, 1024, 32, 512, 128, 64)
"""Those first that tell most, in case that time runs out."""
SMOKE_BATCHES = (4, 8)
_ALLOCATION_FAILED = "ALLOC_FAILED"
"""In the message of a library of CUDA that has no memory left."""


def eager(setting: PartSetting, findings: Findings) -> None:
    """Every batch that fits; before, whether all take the same step."""
    step = _setting(setting)
    peers, notes = peers_of(step)
    for agreement in in_fresh_process(None, compare_steps, step, cc3m_like_lengths(), peers):
        name, error = agreement.peer, max(agreement.loss_error, agreement.gradient_error)
        findings.note(**{f"{name}_relative_error_of_step": error})
        findings.require(agreement.holds, f"{name} does not take our step: relative error {error:.1e}")
    _sweep(step, SMOKE_BATCHES if setting.smoke else BATCHES, setting, findings, notes)


def compiled(setting: PartSetting, findings: Findings) -> None:
    """As many batches as there is time for, everything compiled."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise PartSkippedError(NO_COMPILER)
    step = replace(_setting(setting), compile=True)
    _, notes = peers_of(step)
    _sweep(step, SMOKE_BATCHES[:1] if setting.smoke else BATCHES, setting, findings, notes)


def _setting(setting: PartSetting) -> StepSetting:
    model, batch = (ModelName.tiny, 8) if setting.smoke else (ModelName.vit_b32, 32)
    return StepSetting(model=model, batch=batch, device=setting.device, precision="bf16-mixed")


def _contestants(step: StepSetting) -> list[str]:
    """Ours, and open_clip's steps; the plain one without open_clip."""
    peers, _ = peers_of(step)
    return [OURS, *([one for one in peers if one != PLAIN] or [PLAIN])]


def _sweep(
    step: StepSetting, batches: Sequence[int], setting: PartSetting, findings: Findings, notes: Sequence[str]
) -> None:
    """Measure batch after batch, until memory or time runs out."""
    if notes:
        findings.note(remark="; ".join(notes))
    start, longest, left = time.monotonic(), 0.0, list(batches)
    while left:
        before = time.monotonic()
        if before - start + 1.3 * longest > 0.8 * setting.seconds:
            findings.note(left_out_for_time=", ".join(map(str, left)))
            return
        batch = left.pop(0)
        plan = RoundPlan(
            setting=replace(step, batch=batch),
            lengths=cc3m_like_lengths(),
            contestants=_contestants(step),
            warmup=5 if step.compile else 2,
            steps=2 if setting.smoke else 8,
        )
        try:
            _note(plan, measure_round(plan, len(left)), findings)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            findings.note(out_of_memory_at=batch)
            left = [one for one in left if one < batch]
        finally:
            gc.collect()
            torch.compiler.reset()  # else the next size is compiled as one of any size
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        longest = max(longest, time.monotonic() - before)


def _note(plan: RoundPlan, done: Round, findings: Findings) -> None:
    batch = plan.setting.batch
    rates = {name: pairs_per_second(plan, done, name) for name in plan.contestants}
    for name, rate in rates.items():
        findings.note(**{f"{name}_{batch}_pairs_per_second": rate})
    if LONGEST in rates:
        findings.note(**{f"ours_over_{LONGEST}_{batch}": rates[OURS] / rates[LONGEST]})
        findings.note(**{f"ours_over_{PADDED}_{batch}": rates[OURS] / rates[PADDED]})
    flops = done.flops * rates[OURS] / batch
    findings.note(**{f"ours_{batch}_share_of_ceiling": flops / done.ceiling})
    if (peak := done.contestants[OURS].peak_mebibytes) is not None:
        findings.note(**{f"ours_{batch}_peak_MiB": peak})


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or _ALLOCATION_FAILED in str(error)
