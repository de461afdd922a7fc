"""The other contestants: open_clip's model and loss, and the plain model, in a plain PyTorch training loop."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from kelip_lightning.benchmarks.step.batches import FloatBatch
from kelip_lightning.benchmarks.step.clock import StepClock
from kelip_lightning.benchmarks.step.plain_clip import PlainClip
from kelip_lightning.benchmarks.step.setting import StepSetting, architecture_of, experiment_of
from kelip_lightning.interchange.formats import open_clip
from kelip_lightning.interchange.formats.key_map import Entry, Tensors
from kelip_lightning.optim.optimizers import group_kinds, learning_rate_factor
from kelip_lightning.planning.stage_plan import build_on_meta

OURS = "ours"
PADDED, LONGEST, PLAIN = "open_clip_77", "open_clip_longest", "plain"
PEERS = (PADDED, LONGEST, PLAIN)
INSTALL = "open_clip_torch is not installed, so open_clip is left out; install it with pip install open_clip_torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A contestant with a network of its own."""

    network: nn.Module
    """With the names of OpenAI's CLIP."""
    loss: Callable[[Callable[..., Any], FloatBatch], Tensor]
    """From the network, compiled or not, and a batch."""


def peers_of(setting: StepSetting) -> tuple[list[str], list[str]]:
    """The names of the peers that can do this step here, and a sentence for each reason that others cannot."""
    if setting.is_multi_crop:
        return [PLAIN], ["open_clip has no multi-crop, so it is left out"]
    if importlib.util.find_spec("open_clip") is None:
        return [PLAIN], [INSTALL]
    return list(PEERS), []


def width_of(name: str, setting: StepSetting) -> int | None:
    """Tokens that a peer's captions are padded to; `None`: the longest of each batch."""
    return architecture_of(setting).context_length if name == PADDED else None


def build_peer(name: str, setting: StepSetting, weights: Tensors) -> Peer:
    """A peer with these weights, named as OpenAI's CLIP."""
    sizes = architecture_of(setting)
    if name == PLAIN:
        peer = Peer(network=PlainClip(sizes), loss=_plain_loss)
    else:
        from open_clip import ClipLoss

        from kelip_lightning.benchmarks.step.open_clip_network import build_network

        clip_loss = ClipLoss()
        peer = Peer(
            network=build_network(sizes, longest=name == LONGEST),
            loss=lambda forward, batch: clip_loss(**forward(batch.global_crops[0], batch.tokens)),
        )
    peer.network.load_state_dict(weights, strict=True)
    peer.network.to(setting.device).train()
    return peer


def _plain_loss(forward: Callable[..., Any], batch: FloatBatch) -> Tensor:
    loss: Tensor = forward([batch.global_crops, batch.local_crops], batch.tokens)
    return loss


def train(peer: Peer, setting: StepSetting, batches: Sequence[FloatBatch], clock: StepClock) -> None:
    """The loop of open_clip_train until the clock stops it, with our optimizer, groups, schedule and clipping.

    Learning rate, copy to the device, autocast, backward pass, clipping, optimizer step, clamping of the logit scale.
    """
    experiment, device = experiment_of(setting, clock.num_steps), torch.device(setting.device)
    config, schedule = experiment.optimizer, experiment.schedule
    optimizer = build_optimizer(peer.network, setting, clock.num_steps)
    forward = torch.compile(peer.network) if setting.compile else peer.network
    parameters, logit_scale = list(peer.network.parameters()), peer.network.get_parameter("logit_scale")
    bound, step, is_last = math.log(experiment.dual_encoder.max_logit_scale), 0, False
    mixed = setting.precision == "bf16-mixed"
    while not is_last:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, schedule)
        batch = batches[step % len(batches)].to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = peer.loss(forward, batch)
        loss.backward()
        if config.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip_norm)
        optimizer.step()
        with torch.no_grad():
            logit_scale.clamp_(0, bound)
        step, is_last = step + 1, clock.step_ended(loss)


def build_optimizer(network: nn.Module, setting: StepSetting, num_steps: int) -> Optimizer:
    """Our AdamW over a peer's parameters: those decay whose counterparts decay in our training."""
    experiment = experiment_of(setting, num_steps)
    config, kinds = experiment.optimizer, group_kinds(build_on_meta(experiment), experiment.optimizer)
    decays = {theirs: kinds[one.ours[0]].decays for one in entries_of(setting) for theirs in one.theirs}
    groups = [
        {
            "params": [parameter for name, parameter in network.named_parameters() if decays[name] is chosen],
            "weight_decay": config.weight_decay if chosen else 0.0,
        }
        for chosen in (False, True)
    ]
    return AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=torch.cuda.is_available(),
    )


def entries_of(setting: StepSetting) -> list[Entry]:
    """Which of our tensors is which of theirs, from the interchange code."""
    return open_clip.entries(architecture_of(setting))
