"""States of an optimizer whose bounded parameter stood among its like go on as if nothing had changed."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from kelip_lightning.optim.older_states import regroup_state
from kelip_lightning.optim.optimizers import OptimizerConfig, OptimizerName, build_optimizer, parameter_groups
from kelip_lightning.optim.schedules import ScheduleConfig, build_schedule

SCHEDULE = ScheduleConfig(max_steps=10, warmup_steps=3)
BOUNDS = {"logit_scale": 4.6}


class _Model(nn.Module):
    """The bounded parameter stands between others of its group."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.second = nn.Linear(4, 2)

    def loss(self, step: int) -> torch.Tensor:
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        return (self.logit_scale * self.second(self.first(inputs))).square().mean()


def _train(model: _Model, optimizer: Optimizer, scheduler: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model.loss(step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", list(OptimizerName))
def test_regroup_state__the_next_steps_are_those_of_before(name: OptimizerName) -> None:
    torch.manual_seed(0)
    config = OptimizerConfig(name=name, learning_rate=0.05)
    model = _Model()
    older = build_optimizer(model, config)
    schedule = build_schedule(older, SCHEDULE)
    _train(model, older, schedule, range(4))
    resumed = copy.deepcopy(model)
    states = regroup_state(
        copy.deepcopy(older.state_dict()),
        schedule.state_dict(),
        parameter_groups(resumed, config, BOUNDS),
        list(resumed.parameters()),
    )
    _train(model, older, schedule, range(4, 8))
    newer = build_optimizer(resumed, config, BOUNDS)
    assert len(newer.param_groups) == len(older.param_groups) + 1
    newer_schedule = build_schedule(newer, SCHEDULE)
    newer.load_state_dict(states[0])
    newer_schedule.load_state_dict(states[1])
    assert [one["upper_bound"] for one in newer.param_groups if "upper_bound" in one] == [4.6]
    _train(resumed, newer, newer_schedule, range(4, 8))
    for own, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=0)


def test_regroup_state__of_the_same_groups_comes_back_as_it_is() -> None:
    model = _Model()
    optimizer = build_optimizer(model, OptimizerConfig(), BOUNDS)
    groups = parameter_groups(model, OptimizerConfig(), BOUNDS)
    state, _ = regroup_state(optimizer.state_dict(), {}, groups, list(model.parameters()))
    assert state == optimizer.state_dict()


def test_regroup_state__other_groups_are_refused() -> None:
    model = _Model()
    layered = build_optimizer(nn.Linear(3, 4), OptimizerConfig())
    groups = parameter_groups(model, OptimizerConfig(), BOUNDS)
    with pytest.raises(ValueError, match=r"groups of \[1, 1\] parameters, and the experiment of \[1, 2, 2\]"):
        regroup_state(layered.state_dict(), {}, groups, list(model.parameters()))
