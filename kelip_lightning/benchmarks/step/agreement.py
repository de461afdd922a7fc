"""Whether the contestants do the same step: loss and gradient of every parameter, ours against each peer's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from data_modules.records import ImageTextBatch
from kelip_lightning.benchmarks.step.batches import float_batch, make_batches
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.peers import build_peer, entries_of, width_of
from kelip_lightning.benchmarks.step.setting import StepSetting, experiment_of
from kelip_lightning.benchmarks.step.trainer_steps import GradientsCallback, build_module, fit
from kelip_lightning.interchange.formats.key_map import Entry, Tensors, to_theirs

TOLERANCE = 1e-4
"""Largest relative error of the loss and of a parameter's gradient."""
MAX_PAIRS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Our first step in float32 against a peer's, from the same weights on the same batch."""

    peer: str
    pairs: int
    our_loss: float
    peer_loss: float
    gradient_error: float
    """The largest ||ours - theirs|| / ||theirs|| of any parameter."""
    worst_parameter: str
    """The parameter with that error, by the peer's name."""

    @property
    def loss_error(self) -> float:
        """|ours - theirs| / |theirs|."""
        return abs(self.our_loss - self.peer_loss) / abs(self.peer_loss)

    @property
    def holds(self) -> bool:
        """Whether both errors are within `TOLERANCE`; not with a NaN."""
        return self.loss_error <= TOLERANCE and self.gradient_error <= TOLERANCE


def compare_steps(setting: StepSetting, lengths: CaptionLengths, peers: Sequence[str]) -> list[Agreement]:
    """Loss and gradients of a step of ours, as the trainer takes it, and of each peer's, in float32."""
    setting = replace(setting, precision="32-true", compile=False, batch=min(setting.batch, MAX_PAIRS))
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions of GPUs have 11 bits
    batch, entries = make_batches(setting, lengths, seed=0)[0], entries_of(setting)
    module = build_module(setting, num_steps=1)
    # Copies, since the step changes the module's.
    weights = {name: one.clone() for name, one in to_theirs(entries, dict(module.model.state_dict())).items()}
    ours = GradientsCallback()
    fit(experiment_of(setting, 1), module, [batch], 1, ours)
    return [_compare(name, setting, weights, batch, entries, ours) for name in peers]


def _compare(
    name: str,
    setting: StepSetting,
    weights: Tensors,
    batch: ImageTextBatch,
    entries: Sequence[Entry],
    ours: GradientsCallback,
) -> Agreement:
    peer = build_peer(name, setting, weights)
    loss = peer.loss(peer.network, float_batch(batch, width_of(name, setting)).to(torch.device(setting.device)))
    loss.backward()
    theirs = {key: one.grad for key, one in peer.network.named_parameters() if one.grad is not None}
    error, worst = gradient_error(entries, ours.gradients, theirs)
    return Agreement(
        peer=name,
        pairs=setting.batch,
        our_loss=float(ours.loss),
        peer_loss=float(loss.detach()),
        gradient_error=error,
        worst_parameter=worst,
    )


def gradient_error(entries: Sequence[Entry], ours: Tensors, theirs: Tensors) -> tuple[float, str]:
    """The largest relative error of a tensor, ||ours - theirs|| / ||theirs||, and its name there.

    Infinite if one side lacks a tensor, or shapes differ; a NaN is the largest error.
    """
    worst, name_of_worst = -1.0, ""
    mapped = to_theirs(entries, ours)
    for name in sorted(mapped.keys() | theirs.keys()):
        error = math.inf
        if name in mapped and name in theirs and mapped[name].shape == theirs[name].shape:
            difference = mapped[name].double() - theirs[name].double()
            error = float(difference.norm() / theirs[name].double().norm())
        if math.isnan(error) or error > worst:
            worst, name_of_worst = error, name
        if math.isnan(worst):
            break
    return worst, name_of_worst
