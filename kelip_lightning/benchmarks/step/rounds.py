"""The rounds of a step benchmark, each in a fresh process, in which every contestant trains in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data_modules.records import ImageTextBatch
from kelip_lightning.benchmarks.peak_memory import PeakMemory
from kelip_lightning.benchmarks.processes import Progress, in_fresh_process
from kelip_lightning.benchmarks.step.batches import float_batch, make_batches
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.ceiling import count_step, product_rates
from kelip_lightning.benchmarks.step.clock import StepClock, StepTimes
from kelip_lightning.benchmarks.step.peers import OURS, build_peer, entries_of, train, width_of
from kelip_lightning.benchmarks.step.setting import PAD_ID, StepSetting, experiment_of
from kelip_lightning.benchmarks.step.trainer_steps import StopCallback, build_module, fit
from kelip_lightning.interchange.formats.key_map import Tensors, to_theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """What every round does."""

    setting: StepSetting
    lengths: CaptionLengths
    contestants: list[str]
    warmup: int
    """Steps before the timed ones, >= 1."""
    steps: int
    """Timed steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A contestant's steps in one round."""

    times: StepTimes
    peak_mebibytes: float | None
    """Peak memory above that of the process before, weights and optimizer included; `None`: cannot be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One process."""

    number: int
    """From 0; seed of the batches."""
    order: list[str]
    product_rates: dict[str, float]
    """Matrix product -> operations per second."""
    flops: float
    """Of our timed steps, on average of a step."""
    caption_tokens: float
    """Mean length of the captions of the batches."""
    longest_tokens: float
    """Mean of the longest caption of each batch."""
    contestants: dict[str, Measured]

    @property
    def ceiling(self) -> float:
        """Operations per second of the fastest product."""
        return max(self.product_rates.values())


def run_rounds(plan: RoundPlan, num_rounds: int, progress: Progress) -> list[Round]:
    """All rounds, one after the other; contestant k begins round k, k + N, k + 2 N, ..."""
    rounds = []
    for number in range(num_rounds):
        done = in_fresh_process(plan.setting.threads, measure_round, plan, number)
        rounds.append(done)
        rates = ", ".join(f"{name} {pairs_per_second(plan, done, name):.1f}" for name in plan.contestants)
        progress(f"round {number + 1} of {num_rounds}: {rates} pairs/s")
    return rounds


def pairs_per_second(plan: RoundPlan, done: Round, name: str) -> float:
    """Of one contestant in one round."""
    return plan.setting.batch * plan.steps / done.contestants[name].times.seconds


def measure_round(plan: RoundPlan, number: int) -> Round:
    """One round, in this process."""
    setting, shift = plan.setting, number % len(plan.contestants)
    order = plan.contestants[shift:] + plan.contestants[:shift]
    batches = make_batches(setting, plan.lengths, seed=number)
    rates = product_rates(setting)
    module = build_module(setting, plan.warmup + plan.steps)
    timed = [step % len(batches) for step in range(plan.warmup, plan.warmup + plan.steps)]
    flops = count_step(setting, module.model, batches)
    weights: Tensors = to_theirs(entries_of(setting), dict(module.model.state_dict()))
    del module
    contestants = {name: _measure(name, plan, weights, batches) for name in order}
    lengths = [(batch.tokens != PAD_ID).sum(dim=1).float() for batch in (batches[place] for place in timed)]
    return Round(
        number=number,
        order=order,
        product_rates=rates,
        flops=sum(flops[place] for place in timed) / len(timed),
        caption_tokens=float(torch.cat(lengths).mean()),
        longest_tokens=float(torch.stack([one.max() for one in lengths]).mean()),
        contestants=contestants,
    )


def _measure(name: str, plan: RoundPlan, weights: Tensors, batches: Sequence[ImageTextBatch]) -> Measured:
    setting = plan.setting
    device = torch.device(setting.device)
    clock = StepClock(device, plan.warmup, plan.steps)
    if name == OURS:
        memory = PeakMemory(device)
        module = build_module(setting, clock.num_steps)
        fit(experiment_of(setting, clock.num_steps), module, batches, clock.num_steps, StopCallback(clock))
    else:
        inputs = [float_batch(batch, width_of(name, setting)) for batch in batches]
        memory = PeakMemory(device)
        train(build_peer(name, setting, weights), setting, inputs, clock)
    return Measured(times=clock.times(), peak_mebibytes=memory.mebibytes())
