"""The shipped sbatch files, unedited, on a real Slurm of two nodes: a job that is stopped ends with the same weights.

Each job is stopped while it trains, with loader processes, and compared with an undisturbed run bit for bit.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.slurm import Job, Slurm, missing_programs, running_slurm
from tests.faults.experiment import write_experiment
from tests.paths import ROOT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing_programs()), reason="Slurm is not installed (apt install slurm-wlm munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="starting Slurm needs root"),
]

SCRIPTS = ROOT / "experiments" / "kelip_b32" / "slurm"
STEPS = 300
SECONDS = 180


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running_slurm(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment of some seconds, and the programs that the scripts call."""
    folder = tmp_path_factory.mktemp("jobs")
    whole = yaml.safe_load(write_experiment(folder).read_text(encoding="utf-8"))
    content = whole["contrastive"] | {"name": "tiny", "output_dir": str(folder / "runs")}
    content["data"]["num_workers"] = 1
    content["schedule"]["max_steps"] = STEPS
    content["checkpoint"] = {"every_n_steps": 50}
    content["evaluation"]["every_n_steps"] = STEPS
    content["trainer"]["strategy"] = "ddp"
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    for name, module in (("kelip", "kelip_lightning"), ("torchrun", "torch.distributed.run")):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nexec "{sys.executable}" -m {module} "$@"\n')
        file.chmod(0o755)
    return folder


def submit(
    slurm: Slurm, place: Path, name: str, *words: str, script: str = "srun", options: tuple[str, ...] = ()
) -> Job:
    """The shipped script with options of sbatch for two nodes without GPUs, one process on each."""
    small = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=2", "--time=10", *options]
    programs = {"KELIP": str(place / "kelip"), "TORCHRUN": str(place / "torchrun"), "RENDEZVOUS_PORT": "29711"}
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


@pytest.fixture(scope="module")
def expected(slurm: Slurm, place: Path) -> bytes:
    """The weights of an undisturbed run."""
    job = submit(slurm, place, "whole")
    job.wait("COMPLETED", SECONDS)
    assert job.restarts == 0
    return weights(place, "whole")


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


def test_time_limit__is_told_to_the_tasks_of_srun(slurm: Slurm, place: Path) -> None:
    """Slurm itself warns, since the time of the job is cut while it runs: it ends as a run that had time enough."""
    words = [f"{name}={10 * STEPS}" for name in ("schedule.max_steps", "evaluation.every_n_steps")]
    words.append("checkpoint.every_n_steps=1000")
    beside = [str(place / "kelip"), "contrastive", str(place / "run.yaml"), *words, "name=unlimited"]
    with subprocess.Popen(
        [*beside, "trainer.devices=2"], env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    ) as unlimited:
        job = submit(slurm, place, "limit", *words, options=("--signal=USR1@30",))
        step = wait_for_checkpoint(job, place, "limit")
        # Slurm compares with its clock every 30 seconds.
        slurm.run("scontrol", "update", f"JobId={job.number}", "EndTime=now+31")
        deadline = time.monotonic() + SECONDS
        while job.restarts < 1:
            assert time.monotonic() < deadline, job.output()
            time.sleep(0.5)
        assert_stopped_in_order(job, step)
        assert unlimited.wait(SECONDS) == 0
    assert_finished_alike(job, place, "limit", weights(place, "unlimited"))


def test_scontrol_requeue(slurm: Slurm, place: Path, expected: bytes) -> None:
    job = submit(slurm, place, "requeue")
    wait_for_checkpoint(job, place, "requeue")
    slurm.run("scontrol", "requeue", job.number)
    assert_finished_alike(job, place, "requeue", expected)


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
    assert weights(place, name) == expected


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
