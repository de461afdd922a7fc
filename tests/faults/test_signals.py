"""A signal to a run's processes, its group or its launcher stops training with a checkpoint, loader processes too."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from kelip_lightning.runs.checkpoints import newest_intact
from tests.faults.experiment import SAVE_EVERY, write_experiment
from tests.faults.processes import all_processes, children, descendants, end_group, members, needs_proc, wait_until
from tests.faults.runner import Outcome, kelip
from tests.faults.sabotage import JoinGroup
from tests.paths import ROOT

pytestmark = [pytest.mark.distributed, needs_proc]

NUM_WORKERS = 2
LONG = [
    "mae=null",
    f"data.num_workers={NUM_WORKERS}",
    "schedule.max_steps=5000",  # more than any of these runs takes
    "evaluation.every_n_steps=5000",
]
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
SECONDS = 240
TORCHRUN = ["torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--rdzv-backend=c10d"]
TORCHRUN += ["--rdzv-endpoint=127.0.0.1:0", "-m"]
LAUNCHERS = {"lightning": [], "torchrun": TORCHRUN}


def command_of(folder: Path, world: int) -> list[str]:
    return ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", *LONG, f"trainer.devices={world}"]


def checkpoints_of(folder: Path) -> Path:
    return folder / "tiny" / "contrastive" / "checkpoints"


def has_saved(folder: Path) -> bool:
    return any(checkpoints_of(folder).glob("step=*"))


def run_and_interrupt(folder: Path, world: int, interrupt: Callable[[int, list[BaseProcess]], None]) -> Outcome:
    """Train in one process group, and interrupt once a checkpoint is written.

    Args:
        folder: Output directory of the run `tiny`.
        world: Number of ranks.
        interrupt: Receives the group and the ranks.
    """
    leader = folder / "leader"

    def while_running(processes: list[BaseProcess]) -> None:
        wait_until(lambda: has_saved(folder) or not all(one.is_alive() for one in processes), "a checkpoint")
        interrupt(int(leader.read_text()), processes)

    sabotage = {rank: JoinGroup(leader, is_leader=not rank) for rank in range(world)}
    try:
        return kelip(
            *command_of(folder, world), log=folder / "log", world=world, sabotage=sabotage, while_running=while_running
        )
    finally:
        if leader.is_file():
            end_group(int(leader.read_text()))


def launch_and_interrupt(
    folder: Path, launcher: str, interrupt: Callable[[subprocess.Popen[str]], None]
) -> tuple[int, str]:
    """Start two ranks by a launcher in a session of its own; returns its exit code and the output of all processes."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "kelip_lightning", *command_of(folder, 2)]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # As in experiments/kelip_b32/slurm/torchrun.sbatch: by default torchrun does not forward SIGUSR1.
    environment |= {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    started: list[int] = []
    try:
        wait_until(lambda: has_saved(folder) or process.poll() is not None, "a checkpoint", SECONDS)
        started += descendants(process.pid)
        interrupt(process)
        output, _ = process.communicate(timeout=SECONDS)
        wait_until(lambda: not (set(started) & set(all_processes())), "all processes to end", 20)
    finally:
        for group in {process.pid, *started}:
            end_group(group)
    return process.returncode, output


def assert_stopped_in_order(folder: Path, output: str) -> None:
    """One rank reports the step, its checkpoint is intact, and there is no other error."""
    steps = re.findall(r"kelip: interrupted: stopped after step (\d+)", output)
    assert len(steps) == 1, output
    newest, damaged = newest_intact(checkpoints_of(folder))
    assert not damaged
    assert newest is not None
    assert newest.step == int(steps[0]) >= SAVE_EVERY
    assert "killed by signal" not in output


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", EXIT_CODES)
def test_signal_to_the_group__writes_a_checkpoint(tmp_path: Path, number: signal.Signals, world: int) -> None:
    groups: list[int] = []

    def interrupt(group: int, _: list[BaseProcess]) -> None:
        assert len(members(group)) == world * (1 + NUM_WORKERS), "the loader processes are in the group"
        groups.append(group)
        os.killpg(group, number)

    stopped = run_and_interrupt(tmp_path, world, interrupt)
    assert stopped.exit_codes == world * [EXIT_CODES[number]], stopped.output
    assert_stopped_in_order(tmp_path, stopped.output)
    assert "Traceback" not in stopped.output
    assert stopped.output.count("finishing this step") == world, "loader processes handle no signal"
    wait_until(lambda: not members(groups[0]), "the loader processes to end", seconds=10)


@pytest.mark.slow
@pytest.mark.parametrize("number", EXIT_CODES)
def test_signal_to_one_rank_with_loaders__all_stop_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(_: int, processes: list[BaseProcess]) -> None:
        pid = processes[1].pid
        assert pid is not None
        os.kill(pid, number)

    stopped = run_and_interrupt(tmp_path, 2, interrupt)
    assert stopped.exit_codes == 2 * [EXIT_CODES[number]], stopped.output
    assert_stopped_in_order(tmp_path, stopped.output)
    assert "Traceback" not in stopped.output


def test_killed_process__leaves_no_loader_behind(tmp_path: Path) -> None:
    loaders: list[int] = []

    def interrupt(group: int, _: list[BaseProcess]) -> None:
        loaders.extend(children(group))
        os.kill(group, signal.SIGKILL)
        wait_until(lambda: not members(group), "the loader processes to end", seconds=10)

    ended = run_and_interrupt(tmp_path, 1, interrupt)
    assert ended.exit_codes == [-signal.SIGKILL]
    assert len(loaders) == NUM_WORKERS


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", EXIT_CODES)
def test_signal_to_the_launcher(tmp_path: Path, launcher: str, number: signal.Signals) -> None:
    code, output = launch_and_interrupt(tmp_path, launcher, lambda process: process.send_signal(number))
    assert_stopped_in_order(tmp_path, output)
    # torchrun exits with 1, whatever the exit codes of its ranks.
    assert code == (1 if launcher == "torchrun" else EXIT_CODES[number]), output


@pytest.mark.slow
@pytest.mark.parametrize("number", EXIT_CODES)
def test_signal_to_the_group_of_lightning_s_launcher(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(process: subprocess.Popen[str]) -> None:
        assert len(members(process.pid)) == 2 * (1 + NUM_WORKERS), "ranks and loader processes are in one group"
        os.killpg(process.pid, number)

    code, output = launch_and_interrupt(tmp_path, "lightning", interrupt)
    assert_stopped_in_order(tmp_path, output)
    assert code == EXIT_CODES[number], output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_every_process_below_torchrun(tmp_path: Path, number: signal.Signals) -> None:
    """As scancel does; torchrun forwards the signal too, so that ranks receive it twice."""

    def interrupt(process: subprocess.Popen[str]) -> None:
        for one in [*descendants(process.pid), process.pid]:
            os.kill(one, number)

    _, output = launch_and_interrupt(tmp_path, "torchrun", interrupt)
    assert_stopped_in_order(tmp_path, output)
