"""The folder of one run: which file is where, and which process writes there.

runs/NAME/
    config.yaml overrides.txt plan.yaml environment.json   the resolved experiment, derived values, code and hardware
    data.json tokenizer.json resumes.jsonl                 what the run began with, and each resumption
    initial_model.json                                     the model that it began from, with `init.model`
    status.json metrics.jsonl report.json items.parquet    state, every logged metric, the final evaluation
    timing.json log.txt                                    where the time went, and what the run said, for each command
    analyses/                                              output of `kelip analyze`
    mae/  contrastive/                                     one `StageFolder` each, with TensorBoard events
        checkpoints/step=0000500/  non_finite/  bad_samples.jsonl
    mae/report.json                                        the last probe of MAE pre-training
    contrastive/projector/  projector_config.pbtxt         embeddings for TensorBoard's projector
    mae/image_encoder/  contrastive/dual_encoder/          exported weights
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from kelip_lightning.errors import PeerLostError, RunFolderError, StageInterrupted
from kelip_lightning.runs.checkpoints import Checkpoint, checkpoint_folders
from kelip_lightning.runs.environment import describe_environment

STAGES = ("mae", "contrastive")
_CHECKPOINTS, _CONFIG = "checkpoints", "config.yaml"
_WEIGHTS = "model.safetensors"  # as `models.model_folder.WEIGHTS`, whose import loads torch
WAIT_LIMIT_SECONDS = 4 * 3600.0
"""How long a process waits for a file of the first one, which may train a large tokenizer first."""
_PAUSE_SECONDS = 0.2


class Liveness(Enum):
    """Whether a process still runs."""

    alive = "alive"
    dead = "dead"
    unknown = "unknown"
    """It ran on another host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFolder:
    """The part of a run folder that one stage writes."""

    name: str
    """`mae` or `contrastive`."""
    path: Path
    metrics_file: Path
    """Shared by the run's stages."""
    resumed: bool = False
    checkpoint: Checkpoint | None = None
    """The checkpoint to resume from; `None`: the stage starts at step 0."""

    @property
    def non_finite(self) -> Path:
        """Folder of the reports on losses and gradients that are not finite."""
        return self.path / "non_finite"

    @property
    def bad_samples(self) -> Path:
        """One line per sample that was skipped or repaired."""
        return self.path / "bad_samples.jsonl"

    @property
    def report(self) -> Path:
        """The last probe of MAE pre-training with its chance levels; contrastive training writes `RunFolder.report`."""
        return self.path / "report.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's checkpoints."""
        return self.path / _CHECKPOINTS


class RunFolder:
    """Paths and records of one run; the content of most files is defined elsewhere."""

    def __init__(self, path: Path, *, resumed: bool = False, chosen: Checkpoint | None = None) -> None:
        """Sets the paths; the folder need not exist.

        Args:
            path: The folder.
            resumed: Whether the run continues; its finished stages are not trained again.
            chosen: Checkpoint to resume from; `None`: the newest intact one.
        """
        self.path, self.resumed, self.chosen = path, resumed, chosen
        self.config = path / _CONFIG
        """The resolved experiment."""
        self.overrides = path / "overrides.txt"
        """Overrides of the command line, one a line."""
        self.plan = path / "plan.yaml"
        """Values derived from the experiment."""
        self.environment = path / "environment.json"
        """Code revision, versions, hardware."""
        self.data = path / "data.json"
        """Fingerprints of everything that the run reads."""
        self.tokenizer = path / "tokenizer.json"
        """The run's copy of its tokenizer."""
        self.initial_model = path / "initial_model.json"
        """What was loaded from the model that the run began from."""
        self.resumes = path / "resumes.jsonl"
        """One line per resumption."""
        self.status = path / "status.json"
        """State of the run, and the process that wrote it."""
        self.timing = path / "timing.json"
        """Seconds of the phases of each command that trained the run."""
        self.log = path / "log.txt"
        """Progress lines and messages, with the time."""
        self.metrics = path / "metrics.jsonl"
        """One line per log entry of every stage."""
        self.report = path / "report.json"
        """The final metrics with their chance levels."""
        self.items = path / "items.parquet"
        """The final outcome of every evaluated item."""
        self.analyses = path / "analyses"
        """One folder per analysis."""
        self.image_encoder = path / "mae" / "image_encoder"
        """Weights exported by MAE pre-training."""
        self.dual_encoder = path / "contrastive" / "dual_encoder"
        """The finished model: model.safetensors, config.yaml, tokenizer.json."""

    @property
    def name(self) -> str:
        """The run's name, for `.` too."""
        return Path(os.path.abspath(self.path)).name

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage, which need not exist."""
        return StageFolder(name=name, path=self.path / name, metrics_file=self.metrics)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        config: str,
        overrides: list[str],
        plan: dict[str, Any],
        data: str | None = None,
        needed_bytes: int = 0,
    ) -> "RunFolder":
        """Make a new run folder with its records; only the first process of a distributed run writes.

        Args:
            path: output_dir/name.
            config: The resolved experiment as YAML.
            overrides: As given on the command line.
            plan: Derived values.
            data: Text of data.json.
            needed_bytes: Disk space that the run may use.

        Raises:
            RunFolderError: The folder holds a run already, cannot be written, or the disk is too full.
        """
        run = cls(path)
        if not is_first_process():
            return run
        run._refuse_occupied()
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._refuse_full_disk(needed_bytes)
            run.overrides.write_text("".join(f"{one}\n" for one in overrides), encoding="utf-8")
            run.plan.write_text(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True), encoding="utf-8")
            run.environment.write_text(json.dumps(describe_environment(), indent=2) + "\n", encoding="utf-8")
            if data is not None:
                write_whole(run.data, data)
            # Last and atomically: a folder with this file is a run, and other ranks may be looking for it.
            write_whole(run.config, config)
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written ({error.strerror or error}); choose another place with output_dir=FOLDER"
            ) from error
        return run

    def _refuse_occupied(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file, not a folder; choose another name with name=NEW_NAME")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not self.config.is_file():
            raise RunFolderError(f"{self.path} holds files of something else; choose another name with name=NEW_NAME")
        raise RunFolderError(
            f"{self.path} holds {self.described()}, which is not overwritten; resume it with --resume auto, choose "
            f"another name with name=NEW_NAME, or remove it first with rm -r {self.path}"
        )

    def _refuse_full_disk(self, needed_bytes: int) -> None:
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            if not any(self.path.iterdir()):
                self.path.rmdir()
            raise RunFolderError(
                f"the disk of {self.path} has {free / 2**20:,.0f} MiB free, and this run may need "
                f"{needed_bytes / 2**20:,.0f} MiB; make room, choose another disk with output_dir=FOLDER, or keep "
                "fewer checkpoints with checkpoint.keep_last=1"
            )

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """A run folder with a finished model, for evaluation and prediction.

        Raises:
            RunFolderError: There is no run, or it has no finished model.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise RunFolderError(f"run folder {path} does not exist{_siblings(run.path)}")
        if not run.config.is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no {_CONFIG}{_siblings(run.path / 'x')}")
        if run.dual_encoder not in run.exported():
            only = " of MAE pre-training alone" if run.stages() == ["mae"] else ""
            raise RunFolderError(
                f"{path} has no finished model in contrastive/dual_encoder: it is {run.described()}{only}; "
                "give a run whose contrastive training has finished"
            )
        return run

    def described(self) -> str:
        """The state of the run as part of a message."""
        status = self.read_status()
        when = f" since {status['since']}" if "since" in status else ""
        match status.get("state"):
            case "finished":
                return "a finished run"
            case "running" if self.liveness() is not Liveness.dead:
                return f"a run that is in progress (process {status.get('pid')}{when})"
            case "interrupted":
                return "an interrupted run"
            case "failed":
                return "a run that failed"
            case _:
                return "a run that crashed (no exit status)"

    def liveness(self) -> Liveness:
        """Whether a process is training here."""
        status = self.read_status()
        return process_liveness(status) if status.get("state") == "running" else Liveness.dead

    def read_status(self) -> dict[str, Any]:
        """The last status; empty if it is missing or damaged."""
        try:
            status = json.loads(self.status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, state: str, **details: Any) -> None:
        """Replace the status: `running`, `finished`, `interrupted` or `failed`, with the time."""
        if not is_first_process():
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        status = {"state": state, "since": now, **describe_process(), **details}
        write_whole(self.status, json.dumps(status, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write the status around a run: running, then finished, interrupted or failed.

        It keeps the newest checkpoint at the start (`started_from`), and whether another process was lost
        (`peer_lost`).
        """
        start = {"started_from": self._newest_checkpoint()}
        self.write_status("running", **start)
        try:
            yield
        except BaseException as error:
            state = "interrupted" if was_interrupted(error) else "failed"
            lost = {"peer_lost": True} if isinstance(error, PeerLostError) else {}
            with suppress(OSError):  # a full disk is already reported by the error being raised
                self.write_status(state, reason=f"{type(error).__name__}: {error}", **start, **lost)
            raise
        self.write_status("finished")

    def _newest_checkpoint(self) -> str | None:
        newest = next(iter(self.checkpoints()), None)
        return None if newest is None else str(newest.relative_to(self.path))

    def has_progressed(self) -> bool:
        """Whether the last process has left a checkpoint that it did not find when it started.

        No clocks are compared, since those of hosts differ.
        """
        status = self.read_status()
        return "started_from" in status and self._newest_checkpoint() not in (None, status["started_from"])

    def has_finished(self, stage: str) -> bool:
        """Whether a stage has written its last output."""
        return self.image_encoder in self.exported() if stage == "mae" else self.report.is_file()

    def stages(self) -> list[str]:
        """Names of the stages that have begun, in training order."""
        return [name for name in STAGES if (self.path / name).is_dir()]

    def checkpoints(self) -> list[Path]:
        """The folders of all checkpoints, newest first, those of the last stage before those of the first."""
        return [one for name in reversed(STAGES) for one in checkpoint_folders(self.stage(name).checkpoints)]

    def exported(self) -> list[Path]:
        """The folders with exported weights that are complete."""
        return [one for one in (self.image_encoder, self.dual_encoder) if (one / _WEIGHTS).is_file()]


def run_of_checkpoint(path: Path) -> tuple[RunFolder, str] | None:
    """The run and the stage of a checkpoint, or of a file in one; `None` outside RUN/STAGE/checkpoints/."""
    for folder in Path(os.path.abspath(path)).parents:
        if folder.name == _CHECKPOINTS and (folder.parents[1] / _CONFIG).is_file():
            return RunFolder(folder.parents[1]), folder.parent.name
    return None


def is_first_process() -> bool:
    """Whether this process is rank zero, or the only one.

    Launchers set the rank in the environment before torch.distributed is initialised: torchrun in RANK, Lightning's
    own in LOCAL_RANK and NODE_RANK, Slurm in SLURM_PROCID.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def is_child_of_first_process() -> bool:
    """Whether Lightning's own launcher started this process, and not torchrun or Slurm."""
    others = ("RANK", "TORCHELASTIC_RUN_ID", "SLURM_PROCID")
    return os.environ.get("LOCAL_RANK", "0") != "0" and not any(name in os.environ for name in others)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether a signal caused an error; Lightning turns Ctrl-C into SystemExit."""
    if isinstance(error, SystemExit):
        return was_interrupted(error.__cause__ or error.__context__)
    return isinstance(error, KeyboardInterrupt | StageInterrupted)


def describe_process() -> dict[str, Any]:
    """What identifies this process: PID, start time, host and Slurm job."""
    return {
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def process_liveness(process: Mapping[str, Any]) -> Liveness:
    """Whether the process that `describe_process` described still runs.

    A requeued Slurm job keeps its id, so an earlier process of this job on another host has ended.
    """
    if process.get("host") != socket.gethostname():
        same_job = process.get("job") and process.get("job") == os.environ.get("SLURM_JOB_ID")
        return Liveness.dead if same_job else Liveness.unknown
    start = _process_start(process.get("pid"))
    return Liveness.dead if start is None or start != process.get("process_start") else Liveness.alive


def _process_start(pid: object) -> int | None:
    """When a process of this host began, in clock ticks since boot, which tells apart processes with a reused PID.

    `None`: there is no such process, or it has ended and nobody has asked for its exit code yet. On systems without
    /proc, 0 for every process.
    """
    try:
        os.kill(int(str(pid)), 0)
    except PermissionError:
        pass
    except (OSError, ValueError):
        return None
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return 0


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text atomically: under another name, synced to disk, then renamed."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def wait_for(path: Path, limit_seconds: float = WAIT_LIMIT_SECONDS) -> None:
    """Wait until a file exists that the first process writes.

    Raises:
        RunFolderError: It does not exist after `limit_seconds`.
    """
    deadline = time.monotonic() + limit_seconds
    while not path.is_file():
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"the first process has not written {path} within {limit_seconds:g} s; all processes must share one "
                "file system"
            )
        time.sleep(_PAUSE_SECONDS)


def _siblings(path: Path) -> str:
    """The runs beside a path, as part of a message."""
    found = sorted(file.parent.name for file in path.parent.glob(f"*/{_CONFIG}"))
    return f"; the runs in {path.parent} are {', '.join(found)}" if found else "; train one first with kelip pretrain"
