"""Settings of optimizer and schedule: values that are refused."""

from typing import Any

import pytest

from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate = 0.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1 must be at least 0"),
        ({"beta2": 1.0}, r"beta2 = 1.0 must be in \[0, 1\)"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm = 0.0 must be above 0 or null"),
    ],
)
def test_optimizer_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)


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
