"""Which process is which: who writes a run's status, and whether that one is still there."""

import os
import socket
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any


class Liveness(Enum):
    """What is known of a process."""

    alive = "alive"
    dead = "dead"
    unknown = "unknown"
    """It ran on another machine, which cannot be asked."""


def describe_process() -> dict[str, Any]:
    """What tells this process from others: number, start, machine and Slurm job."""
    pid = os.getpid()
    return {
        "pid": pid,
        "process_start": process_start(pid),
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def liveness(process: Mapping[str, Any]) -> Liveness:
    """Whether a process that `describe_process` described is still there.

    A job that Slurm has queued again is the same job: what ran before in it is over.
    """
    if process.get("host") != socket.gethostname():
        same_job = process.get("job") and process.get("job") == os.environ.get("SLURM_JOB_ID")
        return Liveness.dead if same_job else Liveness.unknown
    start = process_start(process.get("pid"))
    return Liveness.dead if start is None or start != process.get("process_start") else Liveness.alive


def is_child_of_first_process() -> bool:
    """Whether Lightning's own launcher started this process, and not torchrun or Slurm."""
    others = ("RANK", "TORCHELASTIC_RUN_ID", "SLURM_PROCID")
    return os.environ.get("LOCAL_RANK", "0") != "0" and not any(name in os.environ for name in others)


def process_start(pid: object) -> int | None:
    """When a process of this machine began, in clock ticks since boot: a number given again to another process differs.

    None: there is no such process. Where the system has no /proc, 0 for every process.
    """
    try:
        os.kill(int(str(pid)), 0)
    except PermissionError:
        pass
    except (OSError, ValueError):
        return None
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
