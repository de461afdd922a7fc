"""Parameter groups and optimizers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from timm.optim import Muon
from torch import nn
from torch.optim import AdamW, Optimizer

_TOWER = re.compile(r"(?P<tower>(?:.*?\.)??\w*encoder)\.")
_BLOCK = re.compile(_TOWER.pattern + r"(?:.*\.)?(?:blocks|layers?)\.(?P<index>\d+)\.")
_BEFORE_THE_BLOCKS = ("embed", "cls_token", "reg_token", "norm_pre")


class OptimizerName(Enum):
    """adamw, or muon: timm's Muon on the blocks' matrices, its fallback on all else.

    Muon orthogonalises momentum (0.95, Nesterov) by Newton–Schulz iterations (Jordan et al. 2024); the fallback is
    AdamW with Nesterov momentum, which alone reads beta1 and beta2.
    """

    adamw = "adamw"
    muon = "muon"


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """The optimizer; rates are for the configured global batch, nothing rescales them."""

    name: OptimizerName = OptimizerName.adamw
    """adamw or muon."""
    learning_rate: float = 5e-4
    """Peak learning rate per optimizer step at the configured global batch size (CLIP: 5e-4 at 32,768)."""
    weight_decay: float = 0.2
    """Decoupled decay of matrices; gains, biases, embeddings, positions and logit_scale never decay (CLIP: 0.2)."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.98
    """Decay of the second moment (CLIP: 0.98; MAE: 0.95)."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each block of a tower to the one below it, in (0, 1]; 1: one rate for all.

    What stands behind the last block has the full rate, embeddings have layer_decay ** (blocks + 1) of it.
    """
    gradient_clip_norm: float | None = 1.0
    """Largest gradient norm over all parameters; null: no clipping."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate = {self.learning_rate} must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay = {self.weight_decay} must not be negative")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 = {self.beta1} and beta2 = {self.beta2} must be at least 0 and below 1")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay = {self.layer_decay} must be above 0 and at most 1; 1: no decay")
        if self.gradient_clip_norm is not None and self.gradient_clip_norm <= 0:
            raise ValueError(f"gradient_clip_norm = {self.gradient_clip_norm} must be above 0; null: no clipping")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, but not to embeddings, positions or tokens."""
    words = ("embedding", "pos_embed", "cls_token", "mask_token", "logit_scale")
    return parameter.ndim >= 2 and not any(word in name for word in words)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon drives it: the weight matrices inside transformer blocks, not the first and last layers."""
    return parameter.ndim == 2 and (".blocks." in name or "decoder_blocks." in name or ".layers." in name)


def layers_above(names: Iterable[str]) -> dict[str, int]:
    """Parameter -> how many steps of `layer_decay` separate it from the top of its tower.

    A tower is what stands under a module named `...encoder`. Block i of n has n - i, what comes before the blocks
    n + 1, and what comes after them, or stands in no tower, 0.
    """
    names = list(names)
    blocks = {name: (match["tower"], int(match["index"])) for name in names if (match := _BLOCK.match(name))}
    depths: dict[str, int] = {}
    for tower, index in blocks.values():
        depths[tower] = max(depths.get(tower, 0), index + 1)
    above = dict.fromkeys(names, 0)
    for name in names:
        if name in blocks:
            tower, index = blocks[name]
            above[name] = depths[tower] - index
        elif (match := _TOWER.match(name)) and any(word in name for word in _BEFORE_THE_BLOCKS):
            above[name] = depths.get(match["tower"], 0) + 1
    return above


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters by (weight decay or none, Muon or AdamW, learning rate); empty groups left out."""
    muon = config.name is OptimizerName.muon
    above = layers_above(name for name, _ in model.named_parameters())
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.layer_decay ** above[name]
            key = decays(name, parameter), muon and is_hidden_matrix(name, parameter), factor
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decay else 0.0,
            "lr": config.learning_rate * factor,
        }
        | ({"use_fallback": not hidden} if muon else {})
        for (decay, hidden, factor), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The configured optimizer over the model's trainable parameters."""
    groups = parameter_groups(model, config)
    betas = (config.beta1, config.beta2)
    if config.name is OptimizerName.muon:
        # match_rms_adamw gives both halves updates of the same size, so that one learning rate serves both.
        return Muon(
            groups,
            lr=config.learning_rate,
            betas=betas,
            eps=config.eps,
            nesterov=True,
            adjust_lr_fn="match_rms_adamw",
        )
    fused = torch.cuda.is_available()
    return AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=fused)
