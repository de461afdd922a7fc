"""What the launcher of this process says about it in environment variables."""

import os

INTERACTIVE_JOBS = ("bash", "interactive")
"""Names of Slurm jobs in which Lightning expects no srun."""


def has_external_launcher() -> bool:
    """Whether torchrun, srun, DeepSpeed's launcher or mpirun started this process; Lightning's own does not count."""
    return any(name in os.environ for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")) or _in_slurm()


def is_one_of_several() -> bool:
    """Whether any launcher started this process, Lightning's own included."""
    return has_external_launcher() or "LOCAL_RANK" in os.environ


def num_launched(num_nodes: int) -> int | None:
    """Processes of this node that the launcher has started; `None`: there is none.

    Args:
        num_nodes: `trainer.num_nodes`.
    """
    if (number := _number("LOCAL_WORLD_SIZE")) is not None:
        return number
    if is_one_of_several() and (number := _number("WORLD_SIZE")) is not None:
        return max(1, number // num_nodes)
    # Lightning refuses several tasks unless they are given per node.
    return (_number("SLURM_NTASKS_PER_NODE") or 1) if _in_slurm() else None


def _in_slurm() -> bool:
    """Whether Lightning takes this process for a task of srun."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE_JOBS


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and int(text) else None
