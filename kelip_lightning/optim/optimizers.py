"""Parameter groups and optimizers."""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from enum import Enum
from functools import cache
from typing import Any

import torch
from timm.optim import Muon
from torch import nn
from torch.optim import AdamW, Optimizer

from data_modules.config_roles import above, at_least, between, check_ranges
from kelip_lightning.optim.roles import Role, layers_above, roles_of


class OptimizerName(Enum):
    """adamw, or muon: timm's Muon on the matrices of the blocks of every tower, its fallback on all else.

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
    learning_rate: float = field(default=5e-4, metadata=above(0))
    """Peak learning rate per optimizer step at the configured global batch size (CLIP: 5e-4 at 32,768)."""
    weight_decay: float = field(default=0.2, metadata=at_least(0))
    """Decoupled decay of the weights of linear layers and convolutions; gains, biases, embeddings, positions, tokens
    and logit_scale never decay, in any tower (CLIP: 0.2)."""
    beta1: float = field(default=0.9, metadata=between(0, 1, "left"))
    """Decay of the first moment."""
    beta2: float = field(default=0.98, metadata=between(0, 1, "left"))
    """Decay of the second moment (CLIP: 0.98; MAE: 0.95)."""
    eps: float = field(default=1e-6, metadata=above(0))
    """Added to the root of the second moment."""
    layer_decay: float = field(default=1.0, metadata=between(0, 1, "right"))
    """Factor on the learning rate from each block of a tower to the one below it, in (0, 1]; 1: one rate for all.

    What stands behind the last block has the full rate, embeddings have layer_decay ** (blocks + 1) of it.
    """
    gradient_clip_norm: float | None = field(default=1.0, metadata=above(0))
    """Largest gradient norm over all parameters; null: no clipping."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class GroupKind:
    """What the parameters of a group share."""

    decays: bool
    muon: bool
    """Whether Muon drives them, not AdamW."""
    factor: float
    """On the learning rate."""
    upper_bound: float = math.inf


def group_kinds(
    model: nn.Module, config: OptimizerConfig, upper_bounds: Mapping[str, float] | None = None
) -> dict[str, GroupKind]:
    """Trainable parameter -> the kind of its group; arguments as of `parameter_groups`."""
    muon, bounds = config.name is OptimizerName.muon, upper_bounds or {}
    roles, above = roles_of(model), layers_above(model)
    return {
        name: GroupKind(
            decays=roles[name].decays,
            muon=muon and roles[name] is Role.block_matrix,
            factor=config.layer_decay ** above[name],
            upper_bound=bounds.get(name, math.inf),
        )
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def parameter_groups(
    model: nn.Module, config: OptimizerConfig, upper_bounds: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters by (weight decay or none, Muon or AdamW, learning rate, bound); empty groups left out.

    Args:
        model: Whose parameters.
        config: What is done with them.
        upper_bounds: Parameter -> its largest value; none: nothing is bounded.
    """
    groups: dict[GroupKind, list[nn.Parameter]] = {}
    parameters_of = dict(model.named_parameters())
    for name, kind in group_kinds(model, config, upper_bounds).items():
        groups.setdefault(kind, []).append(parameters_of[name])
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if kind.decays else 0.0,
            "lr": config.learning_rate * kind.factor,
        }
        | ({"use_fallback": not kind.muon} if config.name is OptimizerName.muon else {})
        | ({"upper_bound": kind.upper_bound} if kind.upper_bound < math.inf else {})
        for kind, parameters in sorted(groups.items(), key=lambda item: astuple(item[0]))
    ]


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, upper_bounds: Mapping[str, float] | None = None
) -> Optimizer:
    """The configured optimizer over the model's trainable parameters; arguments as of `parameter_groups`."""
    optimizer = _unbounded_optimizer(parameter_groups(model, config, upper_bounds), config)
    # As part of the optimizer's own step: DeepSpeed hands it slices of float32 copies and makes the weights of them.
    optimizer.register_step_post_hook(_apply_upper_bounds)
    return optimizer


@torch.no_grad()
def _apply_upper_bounds(optimizer: Optimizer, _arguments: Any, _options: Any) -> None:
    """Parameters above the bound of their group are set to it, as CLIP does with its logit scale."""
    for group in optimizer.param_groups:
        if "upper_bound" in group:
            for parameter in group["params"]:
                parameter.clamp_(max=_largest_up_to(group["upper_bound"], parameter.dtype))


@cache
def _largest_up_to(bound: float, dtype: torch.dtype) -> float:
    """The largest number of a type that is not above the bound."""
    nearest = torch.tensor(bound, dtype=dtype)
    return (nearest if nearest.item() <= bound else nearest.nextafter(torch.full_like(nearest, -math.inf))).item()


def _unbounded_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
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
