"""The shipped sbatch files, unedited, on a real Slurm of two nodes: a job that is stopped ends with the same weights.

Each job is stopped while it trains, with loader processes, and compared with an undisturbed run bit for bit. What Slurm
itself does to a job is in `test_slurm_events.py`.
"""

import time
from pathlib import Path

import pytest

from tests.cluster.jobs import (
    NEEDS_SLURM,
    SECONDS,
    assert_finished_alike,
    assert_stopped_in_order,
    steps_saved,
    submit,
    wait_for_checkpoint,
)
from tests.cluster.slurm import Slurm

pytestmark = NEEDS_SLURM


@pytest.mark.parametrize("script", ["srun", "torchrun"])
def test_undisturbed__on_two_nodes(slurm: Slurm, place: Path, expected: bytes, script: str) -> None:
    job = submit(slurm, place, f"alone-{script}", script=script)
    assert_finished_alike(job, place, f"alone-{script}", expected, restarts=0)


@pytest.mark.parametrize("script", ["srun", "torchrun"])
def test_scancel_term__is_queued_again_with_a_checkpoint(
    slurm: Slurm, place: Path, expected: bytes, script: str
) -> None:
    name = f"term-{script}"
    job = submit(slurm, place, name, script=script)
    before = wait_for_checkpoint(job, place, name)
    slurm.run("scancel", "--signal=TERM", job.number)
    assert_finished_alike(job, place, name, expected)
    assert_stopped_in_order(job, before)


@pytest.mark.parametrize("script", ["srun", "torchrun"])
def test_scancel_full_term__is_queued_again(slurm: Slurm, place: Path, expected: bytes, script: str) -> None:
    """The signal reaches srun too, which then kills the tasks at once: the last periodic checkpoint is left."""
    name = f"full-{script}"
    job = submit(slurm, place, name, script=script)
    wait_for_checkpoint(job, place, name)
    slurm.run("scancel", "--signal=TERM", "--full", job.number)
    assert_finished_alike(job, place, name, expected)


def test_warning_before_the_time_limit__reaches_the_script_of_torchrun(
    slurm: Slurm, place: Path, expected: bytes
) -> None:
    """Slurm sends what `scancel --batch` sends; its clock for time limits has a resolution of a minute."""
    job = submit(slurm, place, "usr1-torchrun", script="torchrun")
    before = wait_for_checkpoint(job, place, "usr1-torchrun")
    slurm.run("scancel", "--signal=USR1", "--batch", job.number)
    assert_finished_alike(job, place, "usr1-torchrun", expected)
    assert_stopped_in_order(job, before)


def test_resume_path__is_passed_on(slurm: Slurm, place: Path, expected: bytes) -> None:
    job = submit(slurm, place, "path")
    step = wait_for_checkpoint(job, place, "path")
    slurm.run("scancel", job.number)
    job.wait("CANCELLED", SECONDS)
    assert job.restarts == 0, "what its user cancels does not come back"
    assert steps_saved(place, "path")[-1] >= step
    folder = place / "runs" / "path"
    again = submit(slurm, place, "path", "--resume", str(folder))
    assert_finished_alike(again, place, "path", expected, restarts=0)


def test_refused_settings__fail_and_are_not_queued_again(slurm: Slurm, place: Path) -> None:
    begun = time.monotonic()
    job = submit(slurm, place, "refused", "optimizer.lernrate=1")
    job.wait("FAILED", SECONDS)
    assert time.monotonic() - begun < 60
    assert job.field("ExitCode") == "2:0"
    assert job.restarts == 0
    assert "lernrate is not a known key" in job.output()
