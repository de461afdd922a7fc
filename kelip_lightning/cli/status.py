"""`kelip status`: whether a run has finished, and what a scheduler should do if not."""

import argparse
from enum import Enum
from pathlib import Path

from kelip_lightning.cli.verb import add_overrides_argument, load_any_experiment, verb
from kelip_lightning.errors import ConfigError
from kelip_lightning.runs.folder import Liveness, RunFolder, run_of_checkpoint


class RunStatus(Enum):
    """The states of a run, as exit codes."""

    finished = 0
    failed = 1
    """By an error of its own: the same command would most likely fail again."""
    absent = 2
    running = 3
    crashed = 4
    """Its process is gone without a word: killed, or its machine is. It has left no checkpoint of this start."""
    cut_off = 5
    """Its process is gone without a word, or has lost another one, with a checkpoint since it started: to be started
    again with the same command. What fails again at the same step does not end here twice."""
    interrupted = 75
    """By a signal: to be started again with the same command."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="RUN|FILE.yaml", type=Path, help="a run folder, or the experiment of a run")
    add_overrides_argument(parser)
    parser.add_argument("--resume", metavar="auto|PATH", help="as given to the run; PATH is looked at instead of FILE")
    parser.add_argument("--accept-changed-data", action="store_true", help="as given to the run; without effect")


@verb(_add_arguments)
def status(arguments: argparse.Namespace) -> int:
    """Tell the state of a run in one line and by the exit code, for scripts.

    Exit codes: 0 finished, 75 interrupted by a signal, 5 cut off (killed, or it lost another process, after it had
    written a checkpoint): after these two run the same command again. 1 failed, 3 running, 4 crashed (its process is
    gone without a word or a checkpoint), 2 there is no such run.

      kelip status runs/emoji
      kelip status experiments/emoji/pretrain.yaml name=wider
    """
    run = RunFolder(_folder(arguments))
    found = state_of(run)
    print(f"{run.path}: {_described(run, found)}")
    return found.value


def _folder(arguments: argparse.Namespace) -> Path:
    """The folder of the run that is meant."""
    if arguments.resume not in (None, "auto"):
        path = Path(arguments.resume)
        found = run_of_checkpoint(path)
        return path if found is None else found[0].path
    if arguments.what.suffix not in (".yaml", ".yml"):
        if arguments.overrides:
            raise ConfigError([f"{arguments.overrides[0]} has no effect on the run {arguments.what}; leave it out"])
        return Path(arguments.what)
    experiment = load_any_experiment(arguments.what, arguments.overrides, on_this_machine=False, heavy=False).experiment
    folder: Path = Path(experiment.output_dir) / experiment.name
    return folder


def state_of(run: RunFolder) -> RunStatus:
    """The state of a run by what its folder says."""
    if not run.config.is_file():
        return RunStatus.absent
    status = run.read_status()
    state = status.get("state")
    if state == "finished":
        return RunStatus.finished
    if state == "interrupted":
        return RunStatus.interrupted
    if state == "failed":
        return RunStatus.cut_off if status.get("peer_lost") and run.has_progressed() else RunStatus.failed
    if run.liveness() is not Liveness.dead:
        return RunStatus.running
    return RunStatus.cut_off if run.has_progressed() else RunStatus.crashed


def _described(run: RunFolder, found: RunStatus) -> str:
    if found is RunStatus.absent:
        return "no run"
    checkpoint = next(iter(run.checkpoints()), None)
    kept = f"newest checkpoint {checkpoint}" if checkpoint else "no checkpoint"
    reason = run.read_status().get("reason", "")
    first_line = f" ({str(reason).splitlines()[0]})" if reason and found is not RunStatus.finished else ""
    name = found.name.replace("_", " ")
    return name if found is RunStatus.finished else f"{name}{first_line}; {kept}"
