"""Optimizer states of runs that were begun before bounded parameters had groups of their own (revision e16296c)."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from torch.nn import Parameter

_OF_EACH_GROUP = ("base_lrs", "_last_lr", "lr_lambdas")
"""Entries of a scheduler's state with one value per parameter group."""


def regroup_state(
    optimizer_state: Mapping[str, Any],
    scheduler_state: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    parameters: Sequence[Parameter],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """States for the groups of now, from states in which a bounded parameter stood among its like.

    States that have these groups already come back as they are.

    Args:
        optimizer_state: What `Optimizer.state_dict` gave.
        scheduler_state: What the `state_dict` of its learning-rate scheduler gave.
        groups: What `parameter_groups` gives now; groups that differ in their bound alone stand side by side.
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
    of_groups = {
        key: [scheduler_state[key][one] for one in origins] for key in _OF_EACH_GROUP if key in scheduler_state
    }
    return {**optimizer_state, "state": states, "param_groups": groups_of_now}, {**scheduler_state, **of_groups}


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _without_bound(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "upper_bound")}
