"""Training the runs of a study: local processes, isolated so that a crash affects no other run, or a Slurm array."""

import os
import shlex
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

from kelip_lightning.ablations.pool import RunState, find_folder, record_seconds, state_of
from kelip_lightning.ablations.shared_mae import SharedMae
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.distributed.cores import usable_cores
from kelip_lightning.errors import ConfigError
from kelip_lightning.runs.folder import RunFolder

PROGRAM = (sys.executable, "-m", "kelip_lightning")
"""The command line of this installation."""

_SCRIPT = """\
#!/usr/bin/env bash
# {count} runs of {study}, one array task each; line n + 1 of runs.txt is task n. From the folder of the repository:
#   sbatch {script}
# When all have ended, kelip ablate {file} --scale {scale} --report writes the report. Account, partition, time and the
# environment (conda activate kelip, or KELIP=/path/to/kelip) are the cluster's.
#SBATCH --job-name={study}
#SBATCH --array=0-{last}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
{gpus}#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
# Five minutes before the time is up kelip writes a checkpoint and exits with 75; the task is then queued again.
#SBATCH --signal=USR1@300
set -uo pipefail
export OMP_NUM_THREADS=1
eval "set -- $(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {runs})"
srun --wait=120 --kill-on-bad-exit=0 "${{KELIP:-kelip}}" "$@"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" && status=0
fi
exit "$status"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run with a non-zero exit status."""

    run: PlannedRun
    exit_code: int
    reason: str
    """The last line of its log."""
    log: Path


def execute(study: Study, runs: Sequence[PlannedRun], jobs: int, report: Callable[[str], None]) -> list[Failure]:
    """Train the runs that are missing or interrupted, `jobs` at a time; interrupted ones are resumed.

    MAE pre-training that several runs have in common is trained by the first one and copied by the others.

    Args:
        study: Of the runs.
        runs: Finished ones are reused, those running elsewhere are skipped.
        jobs: Concurrent processes.
        report: Called with a progress line at the start and whenever a run ends.

    Returns:
        The runs that failed.

    Raises:
        ConfigError: A run needs several nodes.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the processes were interrupted and have ended.
    """
    due = [run for run in runs if state_of(find_folder(study.pool, run)) in (RunState.missing, RunState.interrupted)]
    due.sort(key=lambda run: run.seed)  # so that a study that is cut off has whole seeds
    _refuse_several_nodes(due)
    report(f"{len(runs) - len(due)} of {len(runs)} runs exist already; {len(due)} to train, {jobs} at a time")
    study.pool.mkdir(parents=True, exist_ok=True)
    started, failures, processes = time.monotonic(), [], _Processes()
    shared = SharedMae(study.pool, runs, due)
    with _terminable(), ThreadPoolExecutor(max_workers=jobs) as threads:
        futures = [threads.submit(_train, study, run, processes, shared, jobs) for run in due]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                failure, text = future.result()
                failures += [failure] if failure else []
                left = (time.monotonic() - started) / number * (len(due) - number)
                report(f"[{number}/{len(due)}] {text}" + (f"; about {left / 60:.0f} min left" if left >= 60 else ""))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            processes.interrupt()
            raise
    return failures


def command_of(run: PlannedRun, base: Path, folder: Path, mae_from: RunFolder | None = None) -> list[str]:
    """The arguments that train or resume a run, without the program's name.

    Args:
        run: To train.
        base: The file of its experiment.
        folder: Its folder.
        mae_from: A run whose MAE pre-training it copies; `None`: it trains its own, if it has any.
    """
    return [
        run.verb,
        str(base),
        *run.overrides,
        f"output_dir={folder.parent}",
        f"name={folder.name}",
        "--resume",
        "auto",
        *(["--mae-from", str(mae_from.path)] if mae_from is not None else []),
    ]


class _Processes:
    """The running processes. They are in sessions of their own: Ctrl-C in the terminal reaches them only from here."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._interrupted = False

    @property
    def interrupted(self) -> bool:
        """Whether no other process is to be started."""
        with self._lock:
            return self._interrupted

    def run(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> int:
        """Run a command, its output appended to a file; returns the exit code."""
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
        """Send SIGINT to every process, and start no other."""
        with self._lock:
            self._interrupted = True
            for process in self._alive:
                process.send_signal(signal.SIGINT)


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that no process is orphaned."""
    if current_thread() is not main_thread():  # only the main thread may set handlers
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(f"received {signal.Signals(number).name}")

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _train(
    study: Study, run: PlannedRun, processes: _Processes, shared: SharedMae, jobs: int
) -> tuple[Failure | None, str]:
    try:
        return _run_process(study, run, processes, shared.wait_for_source(run, lambda: processes.interrupted), jobs)
    finally:
        shared.has_ended(run)


def _run_process(
    study: Study, run: PlannedRun, processes: _Processes, mae_from: RunFolder | None, jobs: int
) -> tuple[Failure | None, str]:
    folder = find_folder(study.pool, run)
    log = study.pool / f"{folder.name}.log"
    environment = dict(os.environ)
    if jobs > 1:  # concurrent runs share the cores, whatever the number of processes of each
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    started = time.monotonic()
    code = processes.run([*PROGRAM, *command_of(run, study.base, folder.path, mae_from)], log, environment)
    seconds = time.monotonic() - started
    limit = environment.get("OMP_NUM_THREADS", "")
    cores = min(usable_cores(), int(limit)) if limit.isdecimal() and int(limit) else usable_cores()
    record_seconds(folder, seconds, cores)
    label = f"{run.variant}, seed {run.seed}"
    if code == 0:
        return None, f"{label}: done in {seconds:.0f} s"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1].strip() if lines else "no output"
    failure = Failure(run=run, exit_code=code, reason=reason, log=log)
    return failure, f"{label}: failed with {code} ({reason}); see {log}"


def _refuse_several_nodes(runs: Sequence[PlannedRun]) -> None:
    for run in runs:
        nodes = contrastive_of(run.experiment).trainer.num_nodes
        if nodes > 1:
            raise ConfigError(
                [
                    f"variant {run.variant} trains on {nodes} nodes (trainer.num_nodes), which one process cannot "
                    "start; write the array file with --dry-run and submit it with sbatch"
                ]
            )


def write_array(study: Study, runs: Sequence[PlannedRun]) -> Path:
    """Write runs.txt and array.sbatch, one array task per run, into the study's folder; returns the latter.

    Raises:
        ConfigError: The runs need different resources, which one array cannot request.
    """
    trainers = [contrastive_of(run.experiment).trainer for run in runs]
    # For a run with devices = auto one task is requested, and its processes are those that Slurm has started.
    shapes = sorted({(one.num_nodes, one.num_devices, one.accelerator) for one in trainers})
    if len(shapes) != 1:
        raise ConfigError(
            [
                f"{study.file}: the variants ask for different resources (nodes, devices, accelerator: {shapes}), "
                "which one array cannot request; give all variants the same trainer.num_nodes, devices and accelerator"
            ]
        )
    nodes, devices, accelerator = shapes[0]
    study.folder.mkdir(parents=True, exist_ok=True)
    listing, script = study.folder / "runs.txt", study.folder / "array.sbatch"
    shared = SharedMae(study.pool, study.runs, [])
    lines = [
        shlex.join(command_of(run, study.base, find_folder(study.pool, run).path, shared.finished_source(run)))
        for run in runs
    ]
    listing.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = _SCRIPT.format(
        count=len(runs),
        study=study.name,
        file=shlex.quote(str(study.file)),
        scale=study.scale_name,
        script=shlex.quote(str(script)),
        last=len(runs) - 1,
        nodes=nodes,
        devices=devices,
        gpus="" if accelerator == "cpu" else f"#SBATCH --gpus-per-node={devices}\n",
        runs=shlex.quote(str(listing)),
    )
    script.write_text(text, encoding="utf-8")
    return script
