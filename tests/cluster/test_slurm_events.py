"""What Slurm does to a job of the shipped sbatch files: requeueing, preemption, a node that fails.

Each job ends with the weights of an undisturbed run, bit for bit.
"""

import time
from pathlib import Path

import pytest

from tests.cluster.jobs import (
    NEEDS_SLURM,
    SECONDS,
    assert_finished_alike,
    assert_stopped_in_order,
    submit,
    wait_for_checkpoint,
    weights,
)
from tests.cluster.slurm import Slurm

pytestmark = NEEDS_SLURM


@pytest.mark.parametrize("partition", ["low", "abrupt"])
def test_preemption__with_and_without_a_grace_time(slurm: Slurm, place: Path, expected: bytes, partition: str) -> None:
    name = f"preempted-{partition}"
    job = submit(slurm, place, name, options=(f"--partition={partition}",))
    before = wait_for_checkpoint(job, place, name)
    other = slurm.submit("--nodes=2", "--exclusive", "--partition=high", "--wrap=sleep 2", cwd=place)
    other.wait("COMPLETED", SECONDS)
    assert_finished_alike(job, place, name, expected)
    if partition == "low":
        assert_stopped_in_order(job, before)


@pytest.mark.parametrize(
    ("script", "node"), [("srun", "node2"), ("srun", "node1"), ("torchrun", "node2")], ids=lambda word: str(word)
)
def test_node_failure__is_queued_again(slurm: Slurm, place: Path, expected: bytes, script: str, node: str) -> None:
    """By the script, which runs on node1, or by Slurm, which may queue the job a second time when it notices."""
    name = f"lost-{script}-{node}"
    job = submit(slurm, place, name, script=script)
    wait_for_checkpoint(job, place, name)
    slurm.kill(node)
    deadline = time.monotonic() + SECONDS
    try:
        while job.restarts < 1:
            assert job.field("JobState") != "FAILED", job.output()
            assert time.monotonic() < deadline, job.output()
            time.sleep(0.5)
    finally:
        slurm.start(node)
    job.wait("COMPLETED", SECONDS)
    assert job.restarts <= 2, job.output()
    assert weights(place, name) == expected


def test_scontrol_requeue(slurm: Slurm, place: Path, expected: bytes) -> None:
    job = submit(slurm, place, "requeue")
    wait_for_checkpoint(job, place, "requeue")
    slurm.run("scontrol", "requeue", job.number)
    assert_finished_alike(job, place, "requeue", expected)
