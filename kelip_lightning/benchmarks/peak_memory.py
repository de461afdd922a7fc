"""The peak of a device's memory, above what was in use before."""

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch

MEBIBYTE = 2**20


class PeakMemory:
    """The peak of a device's memory since this object was made, above what was in use then.

    On a GPU that of torch's allocator; on a CPU the process's resident memory, whose peak Linux alone can reset.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _free_unused(device)
        self._is_known = device.type == "cuda" or _reset_peak_of_process()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._before = self._peak()

    def mebibytes(self) -> float | None:
        """MiB; `None` on a CPU without Linux."""
        return (self._peak() - self._before) / MEBIBYTE if self._is_known else None

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _peak_of_process() if self._is_known else 0


def _free_unused(device: torch.device) -> None:
    """Return freed memory to the system, so that what was measured before is not counted."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        with suppress(OSError, AttributeError):  # other C libraries than glibc have no such function
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak_of_process() -> bool:
    """Set the peak to what is in use now, see proc(5); whether that worked."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _peak_of_process() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kibibytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kibibytes * 1024
