"""When the numbers of a step are logged, and in which form, so that the host waits for the device at no other step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def is_log_step(trainer: Any) -> bool:
    """Whether the step under way is one whose numbers Lightning gives to its loggers, or the last one.

    The last one's are what a stage hands back in the end.
    """
    # The optimizer steps done do not tell: the step under way is among them in the hooks at its end.
    step = int(trainer.fit_loop.epoch_loop._batches_that_stepped) + 1
    period = int(trainer.log_every_n_steps)
    return step == int(trainer.max_steps) or (period > 0 and step % period == 0)


def on_host(numbers: Mapping[str, float]) -> dict[str, Tensor]:
    """The same numbers as float32 tensors of the host: Lightning copies plain numbers to the device."""
    return {name: torch.tensor(number, dtype=torch.float32, device="cpu") for name, number in numbers.items()}
