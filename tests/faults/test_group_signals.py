"""A signal to all processes of a run at once, loader processes included, as launchers and schedulers send it."""

import os
import re
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from kelip_lightning.runs.checkpoints import newest_intact
from tests.faults.experiment import SAVE_EVERY, write_experiment
from tests.faults.processes import children, end_group, members, needs_proc, wait_until
from tests.faults.runner import Outcome, kelip
from tests.faults.sabotage import JoinGroup

pytestmark = [pytest.mark.distributed, needs_proc]

NUM_WORKERS = 2
MAX_STEPS = 5000
"""More than any of these runs gets to."""
LONG = [
    "mae=null",
    f"data.num_workers={NUM_WORKERS}",
    f"schedule.max_steps={MAX_STEPS}",
    f"evaluation.every_n_steps={MAX_STEPS}",
]
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


def has_saved(folder: Path) -> bool:
    """Whether the run is under way and has written a checkpoint."""
    return any((folder / "tiny" / "contrastive" / "checkpoints").glob("step=*"))


def run_and_interrupt(folder: Path, world: int, interrupt: Callable[[int, list[BaseProcess]], None]) -> Outcome:
    """Training with loader processes, all in one process group, to which something is done once it has saved.

    Args:
        folder: Takes the run, `tiny`.
        world: Number of ranks.
        interrupt: Gets the group and the ranks.
    """
    leader = folder / "leader"
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", *LONG, f"trainer.devices={world}"]

    def while_running(processes: list[BaseProcess]) -> None:
        wait_until(lambda: has_saved(folder) or not all(one.is_alive() for one in processes), "a checkpoint")
        interrupt(int(leader.read_text()), processes)

    sabotage = {rank: JoinGroup(leader, is_leader=not rank) for rank in range(world)}
    try:
        return kelip(*command, log=folder / "log", world=world, sabotage=sabotage, while_running=while_running)
    finally:
        if leader.is_file():
            end_group(int(leader.read_text()))


def assert_stopped_in_order(folder: Path, output: str) -> None:
    """One rank has told where the run stopped, its checkpoint is whole, and nobody has complained."""
    told = re.findall(r"kelip: interrupted: stopped after step (\d+)", output)
    assert len(told) == 1, output
    newest, damaged = newest_intact(folder / "tiny" / "contrastive" / "checkpoints")
    assert not damaged
    assert newest is not None
    assert newest.step == int(told[0]) >= SAVE_EVERY
    assert "Traceback" not in output
    assert "killed by signal" not in output


@pytest.mark.parametrize("number", EXIT_CODES)
def test_signal_to_the_group__one_process_with_loaders_writes_a_checkpoint(tmp_path: Path, number: int) -> None:
    groups: list[int] = []

    def interrupt(group: int, _: list[BaseProcess]) -> None:
        assert len(members(group)) == 1 + NUM_WORKERS, "the loader processes are in the group"
        groups.append(group)
        os.killpg(group, number)

    stopped = run_and_interrupt(tmp_path, 1, interrupt)
    assert stopped.exit_codes == [EXIT_CODES[signal.Signals(number)]], stopped.output
    assert_stopped_in_order(tmp_path, stopped.output)
    assert stopped.output.count("finishing this step") == 1, "a loader process has spoken"
    wait_until(lambda: not members(groups[0]), "the loader processes to end", seconds=10)


@pytest.mark.slow
@pytest.mark.parametrize("number", EXIT_CODES)
def test_signal_to_the_group__two_processes_with_loaders_write_a_checkpoint(tmp_path: Path, number: int) -> None:
    def interrupt(group: int, _: list[BaseProcess]) -> None:
        assert len(members(group)) == 2 * (1 + NUM_WORKERS)
        os.killpg(group, number)

    stopped = run_and_interrupt(tmp_path, 2, interrupt)
    assert stopped.exit_codes == 2 * [EXIT_CODES[signal.Signals(number)]], stopped.output
    assert_stopped_in_order(tmp_path, stopped.output)
    assert stopped.output.count("finishing this step") == 2, "a loader process has spoken"


@pytest.mark.slow
@pytest.mark.parametrize("number", EXIT_CODES)
def test_signal_to_one_rank_with_loaders__all_stop_with_a_checkpoint(tmp_path: Path, number: int) -> None:
    def interrupt(_: int, processes: list[BaseProcess]) -> None:
        pid = processes[1].pid
        assert pid is not None
        os.kill(pid, number)

    stopped = run_and_interrupt(tmp_path, 2, interrupt)
    assert stopped.exit_codes == 2 * [EXIT_CODES[signal.Signals(number)]], stopped.output
    assert_stopped_in_order(tmp_path, stopped.output)


def test_killed_process__leaves_no_loader_behind(tmp_path: Path) -> None:
    loaders: list[int] = []

    def interrupt(group: int, _: list[BaseProcess]) -> None:
        loaders.extend(children(group))
        os.kill(group, signal.SIGKILL)
        wait_until(lambda: not members(group), "the loader processes to end", seconds=10)

    ended = run_and_interrupt(tmp_path, 1, interrupt)
    assert ended.exit_codes == [-signal.SIGKILL]
    assert len(loaders) == NUM_WORKERS
