"""Selection of device, precision and strategy; imports torch and Lightning only when they are needed."""

import platform
import re
from collections.abc import Set
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kelip_lightning.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.strategies import Strategy

AUTO = "auto"
PRECISIONS: tuple[str, ...] = ("auto", "32", "bf16-mixed", "bf16-true")
"""Values of `trainer.precision`."""
STRATEGIES: tuple[str, ...] = ("auto", "ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
"""Values of `trainer.strategy`."""

LightningPrecision = Literal["32-true", "bf16-mixed", "bf16-true"]
_EXPLICIT: dict[str, LightningPrecision] = {"32": "32-true", "bf16-mixed": "bf16-mixed", "bf16-true": "bf16-true"}
_CPU_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
_GPU_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")))
"""On Linux one of these exists where torch may find a GPU: NVIDIA's, Jetson's, AMD's, and Windows' under WSL."""
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def choose_device(name: str) -> "torch.device":
    """The device of `--device`: auto (a GPU if available), cpu, cuda, cuda:NUMBER or mps.

    Raises:
        ConfigError: The name is invalid, or the device is not available.
    """
    import torch

    if not _DEVICE.fullmatch(name):
        raise ConfigError([f"--device {name or repr(name)} must be auto, cpu, cuda, cuda:NUMBER or mps"])
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if name == AUTO:
        # Lightning's order, so that a model is used where it would be trained.
        return torch.device("mps" if has_mps else "cuda" if num_gpus else "cpu")
    device = torch.device(name)
    if device.type == "mps" and not has_mps:
        raise ConfigError([f"--device {name}: torch sees no Apple GPU here; use auto or cpu"])
    if device.type == "cuda" and not num_gpus:
        raise ConfigError([f"--device {name}: torch sees no GPU here; use auto or cpu"])
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ConfigError(
            [f"--device {name}: this machine has {num_gpus} GPU(s), numbered from 0; give a smaller number"]
        )
    return device


def choose_precision(name: str, accelerator: str) -> LightningPrecision:
    """Lightning's precision for one of `PRECISIONS`.

    `auto` is bf16-mixed on a CUDA device with bfloat16 arithmetic and on a CPU with AVX512-BF16 or AMX, 32-true
    elsewhere, where bfloat16 is emulated and slow. `accelerator` is `auto`, `cpu` or `gpu`.

    Raises:
        ValueError: The name is none of `PRECISIONS`.
    """
    if name in _EXPLICIT:
        return _EXPLICIT[name]
    if name != AUTO:
        raise ValueError(f"precision = {name!r} must be one of {', '.join(PRECISIONS)}")
    if not uses_cuda(accelerator):
        return "bf16-mixed" if cpu_has_bfloat16() else "32-true"
    import torch

    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def uses_cuda(accelerator: str) -> bool:
    """Whether Lightning would train on a CUDA device of this machine."""
    import torch

    return accelerator != "cpu" and torch.cuda.is_available()


def num_gpus(accelerator: str) -> int:
    """GPUs of this machine on which Lightning would train, 0: on the CPU; `accelerator` is auto, cpu or gpu.

    Imports torch only where there may be one.
    """
    if accelerator == "cpu" or (platform.system() == "Linux" and not any(file.exists() for file in _GPU_DRIVERS)):
        return 0
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return int(torch.backends.mps.is_available())


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> Set[str]:
    """The processor's feature flags; empty on other systems than Linux."""
    if platform.system() != "Linux" or not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return frozenset(flags.split())
    return frozenset()


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16; others take tens of times as long as in float32."""
    return bool(_CPU_BF16 & cpu_features())


def is_deepspeed(name: str) -> bool:
    """Whether the strategy is DeepSpeed's ZeRO: sharded optimizer state (stage 1), gradients (2), parameters (3)."""
    return name.startswith("deepspeed_stage_")


def build_strategy(name: str, accelerator: str, *, num_processes: int, timeout: timedelta) -> "str | Strategy":
    """The Trainer's strategy; `name` is one of `STRATEGIES`, `timeout` that of collectives."""
    if is_deepspeed(name):
        from kelip_lightning.distributed.zero import build_zero_strategy

        return build_zero_strategy(int(name[-1]), accelerator, timeout)
    if name == "auto" and num_processes == 1:
        return name
    from lightning.pytorch.strategies import DDPStrategy

    # Gradients live in the buckets that are reduced, so that they are not copied.
    return DDPStrategy(timeout=timeout, gradient_as_bucket_view=True)
