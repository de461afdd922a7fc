"""How several processes share the work."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

STRATEGIES: tuple[str, ...] = ("auto", "ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
"""What `trainer.strategy` may say."""


def is_deepspeed(name: str) -> bool:
    """Whether DeepSpeed shares out the optimizer's state (stage 1), gradients too (2), or parameters too (3)."""
    return name.startswith("deepspeed_stage_")


def build_strategy(name: str, accelerator: str, *, num_processes: int, timeout: timedelta) -> "str | Strategy":
    """What Lightning's Trainer is given.

    Args:
        name: One of `STRATEGIES`.
        accelerator: auto, cpu or gpu.
        num_processes: All that train together.
        timeout: How long one waits for the others in a collective.
    """
    if is_deepspeed(name):
        from kelip_lightning.distributed.zero import build_zero_strategy

        return build_zero_strategy(int(name[-1]), accelerator, timeout)
    if name == "auto" and num_processes == 1:
        return name
    from lightning.pytorch.strategies import DDPStrategy

    return DDPStrategy(timeout=timeout)
