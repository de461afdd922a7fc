"""Slurm's own warning before the time limit, for a job of srun.sbatch; the longest test, so in its own file."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.jobs import (
    NEEDS_SLURM,
    SECONDS,
    STEPS,
    assert_finished_alike,
    assert_stopped_in_order,
    submit,
    wait_for_checkpoint,
    weights,
)
from tests.cluster.slurm import Slurm
from tests.paths import ROOT

pytestmark = NEEDS_SLURM


# The time limit is counted in seconds: until then the steps mostly wait, as many on a busy machine as on an idle one.
UNHURRIED = f"""#!{sys.executable}
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from kelip_lightning.__main__ import run
from kelip_lightning.modules.contrastive import ContrastiveModule
training_step = ContrastiveModule.training_step
def unhurried(*arguments):
    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        time.sleep(0.15)
    return training_step(*arguments)
ContrastiveModule.training_step = unhurried
sys.exit(run())
"""


def test_time_limit__is_told_to_the_tasks_of_srun(slurm: Slurm, place: Path) -> None:
    """Slurm itself warns, since the time of the job is cut while it runs: it ends as a run that had time enough."""
    program = place / "unhurried"
    program.write_text(UNHURRIED, encoding="utf-8")
    program.chmod(0o755)
    words = [f"{name}={2 * STEPS}" for name in ("schedule.max_steps", "evaluation.every_n_steps")]
    job = submit(slurm, place, "limit", *words, options=("--signal=USR1@90",), program=program.name)
    step = wait_for_checkpoint(job, place, "limit")
    # Slurm compares with its clock every 30 seconds; on a busy machine the job needs a part of the rest to end.
    slurm.run("scontrol", "update", f"JobId={job.number}", "EndTime=now+91")
    deadline = time.monotonic() + SECONDS
    while job.restarts < 1:
        assert time.monotonic() < deadline, job.output()
        time.sleep(0.5)
    assert_stopped_in_order(job, step)
    slurm.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")  # that of its next start
    job.wait("COMPLETED", SECONDS)
    words += ["name=unlimited", "trainer.devices=2"]
    alone = [str(place / "kelip"), "contrastive", str(place / "run.yaml"), *words]
    subprocess.run(alone, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=SECONDS)
    assert_finished_alike(job, place, "limit", weights(place, "unlimited"))
