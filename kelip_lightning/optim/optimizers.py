"""Parameter groups, optimizers and learning-rate schedules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kelip_lightning.optim.config import OptimizerConfig, OptimizerName, ScheduleConfig
from kelip_lightning.optim.muon import BatchedMuon
from kelip_lightning.optim.roles import Role, layers_above, roles_of


@dataclass(frozen=True, slots=True)
class GroupKind:
    """Common properties of a parameter group."""

    decays: bool
    muon: bool
    """Whether Muon optimises them, rather than AdamW."""
    factor: float
    """Factor on the learning rate."""
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
    """Trainable parameters grouped by weight decay, Muon or AdamW, learning rate and upper bound.

    `upper_bounds` maps parameters to their largest value after a step.
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
    groups = parameter_groups(model, config, upper_bounds)
    common: dict[str, Any] = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2), "eps": config.eps}
    optimizer: Optimizer
    if config.name is OptimizerName.muon:
        optimizer = BatchedMuon(groups, **common)
    else:
        optimizer = AdamW(groups, **common, fused=True)
    # In the optimizer's step: under DeepSpeed its parameters are slices of float32 copies, from which weights are made.
    optimizer.register_step_post_hook(_apply_upper_bounds)
    return optimizer


@torch.no_grad()
def _apply_upper_bounds(optimizer: Optimizer, _arguments: Any, _options: Any) -> None:
    """Clamp parameters to the upper bound of their group, as CLIP does with its logit scale."""
    for group in optimizer.param_groups:
        if "upper_bound" in group:
            for parameter in group["params"]:
                parameter.clamp_(max=_largest_up_to(group["upper_bound"], parameter.dtype))


@cache
def _largest_up_to(bound: float, dtype: torch.dtype) -> float:
    """The bound, rounded down to the dtype."""
    nearest = torch.tensor(bound, dtype=dtype)
    return (nearest if nearest.item() <= bound else nearest.nextafter(torch.full_like(nearest, -math.inf))).item()


def learning_rate_factor(step: int, config: ScheduleConfig) -> float:
    """Learning rate over the peak rate at optimizer step `step` (from 0).

    (step + 1) / warmup_steps during warm-up, then f + (1 - f) * (1 + cos(pi * t)) / 2 with t from 0 to 1.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
    final = config.final_learning_rate_ratio
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def build_schedule(optimizer: Optimizer, config: ScheduleConfig) -> LambdaLR:
    """The schedule as a torch scheduler, stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))


def regroup_state(
    optimizer_state: Mapping[str, Any],
    scheduler_state: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    parameters: Sequence[Parameter],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the groups of states from before bounded parameters had groups of their own (revision e16296c).

    States that already have the current groups are returned unchanged.

    Args:
        optimizer_state: `state_dict` of the optimizer.
        scheduler_state: `state_dict` of its learning-rate scheduler.
        groups: Current `parameter_groups`; groups that differ only in their bound are adjacent.
        parameters: All parameters of the model in the order of its `named_parameters`.

    Raises:
        ValueError: The groups differ by more than the bounds.
    """
    saved = optimizer_state["param_groups"]
    if len(saved) == len(groups):
        return dict(optimizer_state), dict(scheduler_state)
    place = {id(parameter): number for number, parameter in enumerate(parameters)}
    merged = [list(alike) for _, alike in groupby(groups, key=_without_bound)]
    before, now = _sizes(saved), _sizes(groups)
    if before != [sum(_sizes(alike)) for alike in merged]:
        raise ValueError(f"the checkpoint has optimizer groups of {before} parameters, and the experiment of {now}")
    states: dict[int, Any] = {}
    groups_of_now: list[dict[str, Any]] = []
    origins: list[int] = []
    for number, (old, alike) in enumerate(zip(saved, merged, strict=True)):
        in_order = sorted((one for group in alike for one in group["params"]), key=lambda one: place[id(one)])
        old_index = {id(one): index for one, index in zip(in_order, old["params"], strict=True)}
        for group in alike:
            first = sum(len(one["params"]) for one in groups_of_now)
            for index, parameter in enumerate(group["params"], start=first):
                if old_index[id(parameter)] in optimizer_state["state"]:
                    states[index] = optimizer_state["state"][old_index[id(parameter)]]
            indices = list(range(first, first + len(group["params"])))
            bound = {"upper_bound": group["upper_bound"]} if "upper_bound" in group else {}
            groups_of_now.append({**old, "params": indices, **bound})
            origins.append(number)
    per_group = [key for key in ("base_lrs", "_last_lr", "lr_lambdas") if key in scheduler_state]
    of_groups = {key: [scheduler_state[key][one] for one in origins] for key in per_group}
    return {**optimizer_state, "state": states, "param_groups": groups_of_now}, {**scheduler_state, **of_groups}


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _without_bound(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "upper_bound")}
