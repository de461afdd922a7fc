"""Parameter groups of the real models, optimizer steps, schedules and older states."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.optim.config import OptimizerConfig, OptimizerName, ScheduleConfig
from kelip_lightning.optim.optimizers import (
    build_optimizer,
    build_schedule,
    group_kinds,
    learning_rate_factor,
    parameter_groups,
    regroup_state,
)

SCHEDULE = ScheduleConfig(max_steps=10, warmup_steps=3)
BOUNDS = {"logit_scale": 4.6}


def test_group_kinds__a_prefix_changes_nothing(tiny_dual_encoder: Callable[..., DualEncoder]) -> None:
    model, config = tiny_dual_encoder(), OptimizerConfig(name=OptimizerName.muon)
    wrapped = group_kinds(nn.ModuleDict({"model": model}), config)
    assert wrapped == {f"model.{name}": kind for name, kind in group_kinds(model, config).items()}


def test_parameter_groups__frozen_parameters_are_left_out() -> None:
    model = nn.Linear(3, 2)
    model.weight.requires_grad = False
    groups = parameter_groups(model, OptimizerConfig())
    assert [len(group["params"]) for group in groups] == [1]
    assert groups[0]["params"][0] is model.bias


def test_build_optimizer__adamw_first_step_by_formula() -> None:
    model = nn.Linear(3, 2)
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, eps=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randn(4, 3)).square().sum().backward()
    build_optimizer(model, config).step()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        # After one step the bias-corrected moments are the gradient and its square.
        decayed = before[name] * (1 - 0.1 * (0.5 if name == "weight" else 0.0))
        torch.testing.assert_close(parameter.detach(), decayed - 0.1 * gradient / (gradient.abs() + 1e-3))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out_of = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out_of(self.into(x).relu())
        return result


def test_build_optimizer__muon_on_block_matrices_and_nadamw_on_the_rest() -> None:
    model = nn.ModuleDict({"trunk": nn.Sequential(_Block()), "head": nn.Linear(8, 2)})
    config = OptimizerConfig(
        name=OptimizerName.muon, learning_rate=0.1, weight_decay=0.0, beta1=0.8, beta2=0.9, eps=0.5
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model["head"](model["trunk"](torch.randn(64, 8))).square().mean().backward()
    build_optimizer(model, config).step()
    after = dict(model.named_parameters())
    update = (before["trunk.0.out_of.weight"] - after["trunk.0.out_of.weight"].detach()) / 0.1
    singular = torch.linalg.svdvals(update / (0.2 * 8**0.5))
    nonzero = singular[:2]
    assert ((nonzero > 0.6) & (nonzero < 1.3)).all(), "Newton–Schulz brings singular values near one"
    gradient = after["head.weight"].grad
    assert gradient is not None
    # NAdamW looks ahead by one more gradient: after one step (1 + beta1) times AdamW's.
    expected = before["head.weight"] - 0.1 * 1.8 * gradient / (gradient.abs() + 0.5)
    torch.testing.assert_close(after["head.weight"].detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(OptimizerName))
def test_build_optimizer__a_step_stops_at_the_bound_and_only_there(name: OptimizerName, dtype: torch.dtype) -> None:
    model = nn.ParameterDict({"bounded": torch.zeros(1), "free": torch.zeros(1)}).to(dtype)
    config, bound = OptimizerConfig(name=name, learning_rate=0.4, beta1=0.0), math.log(20)
    optimizer = build_optimizer(model, config, {"bounded": bound})
    for _ in range(20):
        optimizer.zero_grad()
        (-model["bounded"] - model["free"]).backward()
        optimizer.step()
    assert model["bounded"].item() <= bound, "not even by rounding"
    assert model["bounded"].item() == pytest.approx(bound, rel=1e-6 if dtype is torch.float32 else 2**-8)
    assert model["free"].item() > 2 * bound
    optimizer.zero_grad()
    model["bounded"].square().backward()
    optimizer.step()
    assert model["bounded"].item() < 0.95 * bound


def test_build_optimizer__a_restored_optimizer_has_its_bound() -> None:
    model, bounds = nn.ParameterDict({"bounded": torch.zeros(1)}), {"bounded": 0.5}
    state = build_optimizer(model, OptimizerConfig(), bounds).state_dict()
    again = build_optimizer(model, OptimizerConfig(learning_rate=1.0), bounds)
    again.load_state_dict(state)
    model["bounded"].data.fill_(3.0)
    model["bounded"].sum().backward()
    again.step()
    assert model["bounded"].item() == 0.5


def test_build_optimizer__layer_decay_lowers_the_rate_block_by_block(
    tiny_dual_encoder: Callable[..., DualEncoder],
) -> None:
    model = tiny_dual_encoder()
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.1, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = [rates[id(block.mlp.fc1.weight)] for block in model.image_encoder.vit.blocks]
    assert blocks == pytest.approx([0.025, 0.05])
    assert rates[id(model.image_encoder.vit.pos_embed)] == pytest.approx(0.0125)
    assert rates[id(model.logit_scale)] == pytest.approx(0.1)


def _rates(config: ScheduleConfig, steps: int) -> list[float]:
    """Learning rates of the optimizer steps."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, rates = build_schedule(optimizer, config), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_build_schedule__equals_the_formula(final: float) -> None:
    rates = _rates(ScheduleConfig(max_steps=20, warmup_steps=4, final_learning_rate_ratio=final), 20)
    warmup = [2.0 * share for share in (0.25, 0.5, 0.75, 1.0)]
    cosine = [2.0 * (final + (1 - final) * (1 + math.cos(math.pi * t / 16)) / 2) for t in range(16)]
    assert rates == pytest.approx([*warmup, *cosine])


def test_build_schedule__without_warmup_equals_torch() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    reference, expected = CosineAnnealingLR(optimizer, T_max=12, eta_min=0.2), []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert _rates(ScheduleConfig(max_steps=12, final_learning_rate_ratio=0.1), 12) == pytest.approx(expected)


def test_learning_rate_factor__first_peak_and_end() -> None:
    config = ScheduleConfig(max_steps=100, warmup_steps=10, final_learning_rate_ratio=0.25)
    assert learning_rate_factor(0, config) == pytest.approx(0.1)
    assert learning_rate_factor(9, config) == learning_rate_factor(10, config) == 1.0
    assert learning_rate_factor(55, config) == pytest.approx(0.625), "half way between peak and final"
    assert 0.25 < learning_rate_factor(99, config) < 0.2503, "the last step taken"
    assert learning_rate_factor(100, config) == learning_rate_factor(500, config) == 0.25


class _Model(nn.Module):
    """The bounded parameter is between others of its group."""

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
def test_regroup_state__the_next_steps_are_unchanged(name: OptimizerName) -> None:
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


def test_regroup_state__current_groups_are_returned_unchanged() -> None:
    model = _Model()
    optimizer = build_optimizer(model, OptimizerConfig(), BOUNDS)
    groups = parameter_groups(model, OptimizerConfig(), BOUNDS)
    state, _ = regroup_state(optimizer.state_dict(), {}, groups, list(model.parameters()))
    assert state == optimizer.state_dict()


def test_regroup_state__other_groups_raise() -> None:
    model = _Model()
    layered = build_optimizer(nn.Linear(3, 4), OptimizerConfig())
    groups = parameter_groups(model, OptimizerConfig(), BOUNDS)
    with pytest.raises(ValueError, match=r"groups of \[1, 1\] parameters, and the experiment of \[1, 2, 2\]"):
        regroup_state(layered.state_dict(), {}, groups, list(model.parameters()))
