"""Learning-rate schedules, in optimizer steps."""

import math
from dataclasses import dataclass, field

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from data_modules.config_roles import at_least, between, check_ranges


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Linear warm-up, then half a cosine."""

    max_steps: int = field(metadata=at_least(1))
    """Optimizer steps of the whole stage."""
    warmup_steps: int = field(default=0, metadata=at_least(0))
    """Steps over which the rate climbs linearly to its peak; below max_steps."""
    final_learning_rate_ratio: float = field(default=0.0, metadata=between(0, 1))
    """Rate that the cosine ends at, one step after the last, over the peak rate; in [0, 1]."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} must be below max_steps = {self.max_steps}")


def learning_rate_factor(step: int, config: ScheduleConfig) -> float:
    """The share of the peak rate used for optimizer step `step` (from 0).

    (step + 1) / warmup_steps while warming up, then f + (1 - f) * (1 + cos(pi * t)) / 2 with t from 0 to 1.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
    final = config.final_learning_rate_ratio
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def build_schedule(optimizer: Optimizer, config: ScheduleConfig) -> LambdaLR:
    """The schedule as a torch scheduler that is stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
