"""How several processes share the work: Lightning's strategies, and DeepSpeed on a CPU."""

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy

from kelip_lightning.precision import uses_cuda


def build_strategy(name: str, accelerator: str) -> str | Strategy:
    """What Lightning's Trainer is given.

    Args:
        name: auto, ddp, or deepspeed_stage_1, 2 or 3.
        accelerator: `auto`, `cpu` or `gpu`.
    """
    if not is_deepspeed(name):
        return name
    stage = zero_stage(name)
    return DeepSpeedStrategy(stage=stage) if uses_cuda(accelerator) else CpuDeepSpeedStrategy(stage=stage)


def is_deepspeed(name: str) -> bool:
    """Whether DeepSpeed shares optimizer states (stage 1), gradients too (2), or parameters too (3)."""
    return name.startswith("deepspeed_stage_")


def zero_stage(name: str) -> int:
    """1, 2 or 3 for DeepSpeed's stages, 0 for the other strategies."""
    return int(name[-1]) if is_deepspeed(name) else 0


class CpuDeepSpeedStrategy(DeepSpeedStrategy):
    """DeepSpeed over gloo, for tests: Lightning would refuse, DeepSpeed itself would not.

    Everything but what is below is the code that runs on GPUs.
    """

    def setup_environment(self) -> None:
        """As the parent's, less its refusal of CPUs, and less the minute in which DeepSpeed compiles a CPU collective."""
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        super(DeepSpeedStrategy, self).setup_environment()

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The processes' devices with the index that DeepSpeed asks for."""
        devices = self._parallel_devices
        return devices and [torch.device("cpu", index) for index in range(len(devices))]

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        self._parallel_devices = devices
