"""A signal to a launcher, or to all that it has started, ends training with a checkpoint, loader processes and all."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kelip_lightning.runs.checkpoints import newest_intact
from tests.faults.experiment import write_experiment
from tests.faults.processes import children, end_group, members, needs_proc, wait_until
from tests.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.distributed, needs_proc]

SECONDS = 240
NUM_WORKERS = 1
LONG = [
    "mae=null",
    f"data.num_workers={NUM_WORKERS}",
    "schedule.max_steps=5000",
    "evaluation.every_n_steps=5000",
    "trainer.devices=2",
]
TORCHRUN = ["torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--rdzv-backend=c10d"]
TORCHRUN += ["--rdzv-endpoint=127.0.0.1:0", "-m"]
LAUNCHERS = {"lightning": [], "torchrun": TORCHRUN}
OWN_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


def run_and_interrupt(
    folder: Path, launcher: str, interrupt: Callable[[subprocess.Popen[str]], None]
) -> tuple[int, str]:
    """Two ranks in a session of their own; returns the launcher's exit code and what all have printed."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "kelip_lightning", "pretrain"]
    command += [str(write_experiment(folder)), f"output_dir={folder}", *LONG]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # As experiments/kelip_b32/slurm/torchrun.sbatch has it: torchrun hands on no SIGUSR1 by itself.
    environment |= {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    saved = folder / "tiny" / "contrastive" / "checkpoints"
    started: list[int] = []
    try:
        wait_until(lambda: any(saved.glob("step=*")) or process.poll() is not None, "a checkpoint", SECONDS)
        started += descendants(process.pid)
        interrupt(process)
        told, _ = process.communicate(timeout=SECONDS)
        wait_until(lambda: not (set(started) & set(descendants(None))), "all processes to end", 20)
    finally:
        for group in {process.pid, *started}:
            end_group(group)
    return process.returncode, told


def descendants(of: int | None) -> list[int]:
    """All processes below one, in whatever session; None: all that there are."""
    if of is None:
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    below = children(of)
    return below + [one for child in below for one in descendants(child)]


def assert_stopped_in_order(folder: Path, told: str) -> None:
    steps = re.findall(r"kelip: interrupted: stopped after step (\d+)", told)
    assert len(steps) == 1, told
    newest, damaged = newest_intact(folder / "tiny" / "contrastive" / "checkpoints")
    assert not damaged
    assert newest is not None
    assert newest.step == int(steps[0])
    assert "killed by signal" not in told


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", OWN_CODES)
def test_signal_to_the_launcher(tmp_path: Path, launcher: str, number: signal.Signals) -> None:
    code, told = run_and_interrupt(tmp_path, launcher, lambda process: process.send_signal(number))
    assert_stopped_in_order(tmp_path, told)
    assert code == (1 if launcher == "torchrun" else OWN_CODES[number]), told  # torchrun's, whatever its ranks end with


@pytest.mark.parametrize("number", OWN_CODES)
def test_signal_to_the_group_of_lightning_s_launcher(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(process: subprocess.Popen[str]) -> None:
        assert len(members(process.pid)) == 2 * (1 + NUM_WORKERS), "ranks and loader processes are in one group"
        os.killpg(process.pid, number)

    code, told = run_and_interrupt(tmp_path, "lightning", interrupt)
    assert_stopped_in_order(tmp_path, told)
    assert code == OWN_CODES[number], told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_every_process_below_torchrun(tmp_path: Path, number: signal.Signals) -> None:
    """As scancel does, which knows no groups; torchrun hands on what it gets too, so that ranks hear it twice."""

    def interrupt(process: subprocess.Popen[str]) -> None:
        for one in [*descendants(process.pid), process.pid]:
            os.kill(one, number)

    _, told = run_and_interrupt(tmp_path, "torchrun", interrupt)
    assert_stopped_in_order(tmp_path, told)
