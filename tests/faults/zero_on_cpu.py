"""DeepSpeed on gloo: the strategies `deepspeed_stage_1` to `3` for machines without a GPU."""

from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, StrategyRegistry


class CpuDeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's strategy without its insistence on CUDA; whatever trains and saves is unchanged."""

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    @property
    def parallel_devices(self) -> list[torch.device]:
        """With an index, by which DeepSpeed tells ranks apart."""
        return [torch.device("cpu", index) for index in range(len(self._parallel_devices or []))]

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        self._parallel_devices = devices


def allow_zero_on_cpu() -> None:
    """Let `trainer.strategy=deepspeed_stage_N` mean the class above in this process."""
    import deepspeed

    operators: dict[str, Any] = deepspeed.ops.__compatible_ops__
    operators["deepspeed_shm_comm"] = False  # it would compile for most of a minute
    for stage in (1, 2, 3):
        name = f"deepspeed_stage_{stage}"
        StrategyRegistry.register(name, CpuDeepSpeedStrategy, override=True, description="on gloo", stage=stage)
