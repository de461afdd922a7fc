"""The schedule against its formula and against torch's own schedulers."""

import math
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from kelip_lightning.optim.schedules import ScheduleConfig, build_schedule, learning_rate_factor


def _rates(config: ScheduleConfig, steps: int) -> list[float]:
    """The rates that the optimizer steps really use."""
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


def test_learning_rate_factor__never_rises_after_the_peak() -> None:
    config = ScheduleConfig(max_steps=50, warmup_steps=5)
    factors = [learning_rate_factor(step, config) for step in range(50)]
    assert factors[:5] == sorted(factors[:5])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert min(factors) > 0, "no step is wasted"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps = 0 must be at least 1"),
        ({"max_steps": 10, "warmup_steps": 10}, "warmup_steps = 10 must be below max_steps = 10"),
        ({"max_steps": 10, "warmup_steps": -1}, "warmup_steps = -1"),
        ({"max_steps": 10, "final_learning_rate_ratio": 1.5}, "final_learning_rate_ratio = 1.5"),
    ],
)
def test_schedule_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**options)
