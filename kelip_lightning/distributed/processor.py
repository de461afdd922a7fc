"""What this machine's processor can do."""

import platform
from collections.abc import Set
from pathlib import Path

_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> Set[str]:
    """The processor's feature flags; empty on other systems than Linux."""
    if platform.system() != "Linux" or not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return frozenset(flags.split())
    return frozenset()


def has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16; others take tens of times as long as in float32."""
    return bool(_BFLOAT16 & cpu_features())
