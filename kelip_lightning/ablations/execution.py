"""Running the runs of a study, each in a process of its own: one that crashes costs no other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, current_thread, main_thread
from types import FrameType

from kelip_lightning.ablations.pool import RunState, find_run, record_seconds, state_of
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.errors import ConfigError

Tell = Callable[[str], None]

PROGRAM = (sys.executable, "-m", "kelip_lightning")
"""What trains a run: this installation's own command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that did not end well."""

    run: PlannedRun
    exit_code: int
    reason: str
    """The last line that it wrote."""
    log: Path


def execute(study: Study, runs: Sequence[PlannedRun], jobs: int, tell: Tell) -> list[Failure]:
    """Train what is not finished, `jobs` at a time; what was cut off goes on where it was.

    Args:
        study: Names the pool and the base.
        runs: Of the study; finished ones are reused, ones under way elsewhere are left to whoever trains them.
        jobs: Processes at a time.
        tell: Takes a line for the user whenever a run ends.

    Returns:
        The runs that failed; the others have gone on.

    Raises:
        ConfigError: A run that is due needs several machines.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the processes were asked to end, and have.
    """
    due = [run for run in runs if state_of(find_run(study.pool, run)) in (RunState.missing, RunState.unfinished)]
    _refuse_several_nodes(due)
    tell(f"{len(runs) - len(due)} of {len(runs)} runs stand already; {len(due)} to train, {jobs} at a time")
    study.pool.mkdir(parents=True, exist_ok=True)
    started, failures, processes = time.monotonic(), [], _Processes()
    with _terminable(), ThreadPoolExecutor(max_workers=jobs) as threads:
        futures = [threads.submit(_train, study, run, processes, jobs) for run in due]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                failure, text = future.result()
                failures += [failure] if failure else []
                left = (time.monotonic() - started) / number * (len(due) - number)
                tell(f"[{number}/{len(due)}] {text}" + (f"; about {left / 60:.0f} min left" if left >= 60 else ""))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            processes.interrupt()
            raise
    return failures


def command_of(run: PlannedRun, base: Path, folder: Path) -> list[str]:
    """The command line that trains a run, or goes on with it, after the program's name."""
    place = [f"output_dir={folder.parent}", f"name={folder.name}"]
    return [run.verb, str(base), *run.overrides, *place, "--resume", "auto"]


class _Processes:
    """The processes that run now. They do not see the terminal's Ctrl-C, and are told of it once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._interrupted = False

    def run(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> int:
        """Run a command to its end, its output in a file; returns the exit code."""
        with log.open("ab") as file:
            with self._lock:
                if self._interrupted:
                    return 130
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
                self._alive.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._alive.discard(process)

    def interrupt(self) -> None:
        """Ask every process to end as Ctrl-C does, and start no other."""
        with self._lock:
            self._interrupted = True
            for process in self._alive:
                process.send_signal(signal.SIGINT)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a study as Ctrl-C does, so that it leaves no process behind."""
    if current_thread() is not main_thread():  # only the main thread may set handlers
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(f"{signal.Signals(number).name} came")

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _train(study: Study, run: PlannedRun, processes: _Processes, jobs: int) -> tuple[Failure | None, str]:
    folder = find_run(study.pool, run)
    log = study.pool / f"{folder.name}.log"
    command = [*PROGRAM, *command_of(run, study.base, folder.path)]
    started = time.monotonic()
    code = processes.run(command, log, _environment(jobs))
    seconds = time.monotonic() - started
    label = f"{run.variant}, seed {run.seed}"
    record_seconds(folder, seconds)
    if code == 0:
        return None, f"{label}: done in {seconds:.0f} s"
    reason = _last_line(log)
    return Failure(
        run=run, exit_code=code, reason=reason, log=log
    ), f"{label}: failed with {code} ({reason}); see {log}"


def _environment(jobs: int) -> dict[str, str]:
    """Processes beside each other share the cores, unless somebody has said how."""
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it wrote nothing"


def _refuse_several_nodes(runs: Sequence[PlannedRun]) -> None:
    for run in runs:
        nodes = contrastive_of(run.experiment).trainer.num_nodes
        if nodes > 1:
            raise ConfigError(
                [
                    f"variant {run.variant} trains on {nodes} machines (trainer.num_nodes), which one process cannot "
                    "start; write the array file with --dry-run and submit it with sbatch"
                ]
            )
