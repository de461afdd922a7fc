"""What the environment variables of launchers say."""

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from kelip_lightning.distributed.launchers import (
    INTERACTIVE_JOBS,
    has_external_launcher,
    is_one_of_several,
    num_launched,
)

VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
VARIABLES += ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME", "SLURM_PROCID")

BY_HAND: dict[str, str] = {}
TORCHRUN = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
# Started by torchrun in a job with one task per node, as by torchrun.sbatch.
TORCHRUN_IN_SLURM = TORCHRUN | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "1"}
DEEPSPEED = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "SLURM_NTASKS_PER_NODE": "1"}
SRUN = {"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_PROCID": "9", "SLURM_JOB_NAME": "kelip"}
ONE_TASK = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "kelip"}
SHELL_OF_AN_ALLOCATION = SRUN | {"SLURM_PROCID": "0", "SLURM_JOB_NAME": "interactive"}
CHILD_OF_LIGHTNING = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "num_nodes", "external", "several", "number"),
    [
        (BY_HAND, 1, False, False, None),
        (TORCHRUN, 2, True, True, 8),
        (TORCHRUN_IN_SLURM, 2, True, True, 8),
        (DEEPSPEED, 2, True, True, 8),
        (SRUN, 2, True, True, 8),
        (ONE_TASK, 1, True, True, 1),
        (SHELL_OF_AN_ALLOCATION, 1, False, False, None),
        (CHILD_OF_LIGHTNING, 2, False, True, 2),
        ({"OMPI_COMM_WORLD_RANK": "0"}, 1, True, True, None),
        ({"WORLD_SIZE": "4"}, 1, False, False, None),  # left behind: no rank goes with it
    ],
)
def test_launchers(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    num_nodes: int,
    external: bool,
    several: bool,
    number: int | None,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_external_launcher() is external
    assert is_one_of_several() is several
    assert num_launched(num_nodes) == number


@pytest.mark.parametrize("job", [*INTERACTIVE_JOBS, "kelip", None])
def test_slurm__is_recognised_as_by_lightning(monkeypatch: pytest.MonkeyPatch, job: str | None) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_NAME", job)
    assert has_external_launcher() is SLURMEnvironment.detect()
