"""Jobs of the shipped sbatch files, unedited, on a Slurm of two nodes, and what becomes of them."""

import os
import re
import time
from pathlib import Path

import pytest

from tests.cluster.slurm import Job, Slurm, missing_programs
from tests.paths import ROOT

NEEDS_SLURM = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing_programs()), reason="Slurm is not installed (apt install slurm-wlm munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="starting Slurm needs root"),
]
"""Marks of tests that submit jobs."""
SCRIPTS = ROOT / "experiments" / "kelip_b32" / "slurm"
STEPS = 300
SECONDS = 180


def submit(
    slurm: Slurm,
    place: Path,
    name: str,
    *words: str,
    script: str = "srun",
    options: tuple[str, ...] = (),
    program: str = "kelip",
) -> Job:
    """The shipped script with options of sbatch for two nodes without GPUs, one process on each.

    `program` is the file of `place` that the script calls as kelip.
    """
    small = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=2", "--time=10", *options]
    programs = {
        "KELIP": str(place / program),
        "TORCHRUN": str(place / "torchrun"),
        "RENDEZVOUS_PORT": str(slurm.rendezvous_port),
    }
    file = str(SCRIPTS / f"{script}.sbatch")
    arguments = ["contrastive", str(place / "run.yaml"), f"name={name}", *words]
    return slurm.submit(*small, file, *arguments, cwd=place, environment=programs)


def weights(place: Path, name: str) -> bytes:
    return (place / "runs" / name / "contrastive" / "dual_encoder" / "model.safetensors").read_bytes()


def steps_saved(place: Path, name: str) -> list[int]:
    folders = (place / "runs" / name / "contrastive" / "checkpoints").glob("step=*")
    return sorted(int(one.name.removeprefix("step=")) for one in folders if one.name.removeprefix("step=").isdigit())


def wait_for_checkpoint(job: Job, place: Path, name: str, after: int = 0) -> int:
    deadline = time.monotonic() + SECONDS
    while not (found := [step for step in steps_saved(place, name) if step > after]):
        assert time.monotonic() < deadline, job.output()
        assert job.field("JobState") in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"), job.output()
        time.sleep(0.05)
    return found[-1]


def assert_finished_alike(job: Job, place: Path, name: str, expected: bytes, restarts: int = 1) -> None:
    job.wait("COMPLETED", SECONDS)
    assert job.restarts == restarts, job.output()
    assert weights(place, name) == expected
    # torchrun prints one of its own when it is signalled.
    assert job.output().count("Traceback") == job.output().count("SignalException: Process")


def assert_stopped_in_order(job: Job, before: int) -> None:
    """A checkpoint at the step of the stop, not only the last periodic one."""
    found = re.search(r"stopped after step (\d+); checkpoint", job.output())
    assert found, job.output()
    assert int(found[1]) >= before
