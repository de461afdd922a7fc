"""DeepSpeed's ZeRO through Lightning, on GPUs and (in tests) on CPUs, and access to unsharded weights."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch import nn

from kelip_lightning.distributed.accelerators import uses_cuda


def build_zero_strategy(stage: int, accelerator: str, timeout: timedelta) -> DeepSpeedStrategy:
    """ZeRO stage 1, 2 or 3; `accelerator` is auto, cpu or gpu; `timeout` is that of collectives."""
    kind = DeepSpeedStrategy if uses_cuda(accelerator) else CpuDeepSpeedStrategy
    # The batch size is for DeepSpeed's log only; Lightning would read it from the loader.
    return kind(stage=stage, timeout=timeout, logging_batch_size_per_gpu=1)


@contextmanager
def whole_weights(strategy: Strategy, module: nn.Module) -> Iterator[None]:
    """Gather the parameters that ZeRO-3 shards, on every rank; all ranks must enter.

    Inside, a single rank may compute with the module or save it: the hooks with which ZeRO-3 gathers parameters around
    every layer, on all ranks, are disabled.
    """
    if not isinstance(strategy, DeepSpeedStrategy) or not strategy.zero_stage_3:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    hooks = [(part, part._forward_pre_hooks, part._forward_hooks) for part in module.modules()]
    with GatheredParameters(list(module.parameters())):
        for part, _, _ in hooks:
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        try:
            yield
        finally:
            for part, before, after in hooks:
                part._forward_pre_hooks, part._forward_hooks = before, after


class CpuDeepSpeedStrategy(DeepSpeedStrategy):
    """DeepSpeed over gloo, for tests, which DeepSpeed supports and Lightning refuses; the rest is the code for GPUs."""

    def setup_environment(self) -> None:
        """Skip the parent's refusal of CPUs, and disable a CPU collective that takes a minute to compile."""
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        super(DeepSpeedStrategy, self).setup_environment()

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The processes' devices with the index that DeepSpeed expects."""
        devices = self._parallel_devices
        return devices and [torch.device("cpu", index) for index in range(len(devices))]

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        self._parallel_devices = devices
