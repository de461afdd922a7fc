"""CPU cores that a run may use."""

import os
from collections.abc import Iterator
from math import inf
from pathlib import Path

_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """CPU cores of this run: those that its process may run on, at most its container's share and OMP_NUM_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(min(allowed, container_cores(), int(limit) if limit.isdecimal() else inf)))


def container_cores(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float:
    """Seconds of CPU time per second that the container of this process may take; infinite without a limit.

    The limit of `docker run --cpus=2` or of a pod is not visible in the cores that a process may run on.

    Args:
        cgroups: Where control groups are mounted, version 2 or 1.
        own: File that names the groups of this process.
    """
    return min(_quotas(cgroups, own), default=inf)


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        # A limit of a group holds for all groups below it. Inside a container the mount may begin at its own group.
        groups = [Path(path.lstrip("/")), *Path(path.lstrip("/")).parents]
        if not controllers:
            for group in groups:
                for text in _lines(cgroups / group / "cpu.max"):
                    yield from _ratio(*text.split())
        elif "cpu" in controllers.split(","):
            for group in groups:
                files = [cgroups / "cpu" / group / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
                yield from _ratio(*(text for file in files for text in _lines(file)))


def _ratio(*texts: str) -> Iterator[float]:
    """The quota over its period, both in microseconds; nothing if there is no quota ("max" or -1)."""
    if len(texts) == 2 and all(text.isdecimal() for text in texts) and int(texts[1]):
        yield int(texts[0]) / int(texts[1])


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
