"""Which numbers the networks calculate with."""

import platform
from collections.abc import Set
from pathlib import Path
from typing import Literal

PRECISIONS: tuple[str, ...] = ("auto", "32", "bf16-mixed", "bf16-true")
"""What `trainer.precision` may say."""

LightningPrecision = Literal["32-true", "bf16-mixed", "bf16-true"]

_CPU_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def choose_precision(name: str, accelerator: str) -> LightningPrecision:
    """The precision that Lightning is given.

    Args:
        name: One of `PRECISIONS`. `auto` is bf16-mixed on a CUDA device with bfloat16 arithmetic and on a CPU
            whose instruction set has it (AVX512-BF16, AMX), 32-true elsewhere: emulated bfloat16 is slow.
        accelerator: `auto`, `cpu` or `gpu`.

    Returns:
        `32-true`, `bf16-mixed` or `bf16-true`.

    Raises:
        ValueError: The name is none of `PRECISIONS`.
    """
    match name:
        case "32":
            return "32-true"
        case "bf16-mixed":
            return "bf16-mixed"
        case "bf16-true":
            return "bf16-true"
        case "auto":
            fast = cuda_has_bf16() if uses_cuda(accelerator) else cpu_has_bf16()
            return "bf16-mixed" if fast else "32-true"
        case _:
            raise ValueError(f"precision = {name!r} must be one of {', '.join(PRECISIONS)}")


def uses_cuda(accelerator: str) -> bool:
    """Whether Lightning would train on a CUDA device of this machine."""
    import torch

    return accelerator != "cpu" and torch.cuda.is_available()


def cuda_has_bf16() -> bool:
    """Whether the current CUDA device calculates in bfloat16 itself."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_has_bf16() -> bool:
    """Whether the processor has matrix or vector instructions for bfloat16."""
    return bool(_CPU_BF16 & cpu_features())


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> Set[str]:
    """The processor's feature flags as Linux lists them; empty on other systems."""
    if platform.system() != "Linux" or not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return frozenset(flags.split())
    return frozenset()
