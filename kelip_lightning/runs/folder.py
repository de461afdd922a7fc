"""The folder of one run: what stands where, and who may write there.

runs/NAME/
    config.yaml overrides.txt plan.yaml environment.json   what was asked, what follows from it, where it ran
    data.json tokenizer.json                               what it was begun with (data_record.py, run_tokenizer.py)
    status.json metrics.jsonl report.json                  how far it came, every number, the final metrics
    items.parquet                                          the final outcome of every evaluated item
    mae/  contrastive/                                     TensorBoard events, and checkpoints/
    mae/image_encoder/  contrastive/dual_encoder/          what the stages hand on
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from kelip_lightning.errors import RunFolderError, StageInterrupted
from kelip_lightning.runs.checkpoints import Checkpoint, checkpoint_folders
from kelip_lightning.runs.environment import describe_environment
from kelip_lightning.runs.liveness import Liveness, describe_process, liveness
from kelip_lightning.runs.shared_files import write_whole
from kelip_lightning.runs.stage_folder import StageFolder

STATUS = "status.json"


class RunFolder:
    """Paths and records of one run; says nothing about what the files hold."""

    def __init__(self, path: Path, *, resumed: bool = False, chosen: Checkpoint | None = None) -> None:
        """Names a folder, which need not exist.

        Args:
            path: The folder.
            resumed: Whether the run goes on; its finished stages are not trained again then.
            chosen: Checkpoint to go back to; none: the newest that is whole.
        """
        self.path, self.resumed, self.chosen = path, resumed, chosen

    @property
    def name(self) -> str:
        """The run's name, for `.` too."""
        return Path(os.path.abspath(self.path)).name

    @property
    def config(self) -> Path:
        """The resolved experiment."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """Values derived from the experiment."""
        return self.path / "plan.yaml"

    @property
    def environment(self) -> Path:
        """Code revision, versions, hardware."""
        return self.path / "environment.json"

    @property
    def data(self) -> Path:
        """Fingerprints of all that the run reads."""
        return self.path / "data.json"

    @property
    def tokenizer(self) -> Path:
        """The run's own copy of its tokenizer."""
        return self.path / "tokenizer.json"

    @property
    def metrics(self) -> Path:
        """One line per log entry of every stage."""
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """The final metrics with their chance levels."""
        return self.path / "report.json"

    @property
    def image_encoder(self) -> Path:
        """The hand-over folder of MAE pre-training."""
        return self.path / "mae" / "image_encoder"

    @property
    def dual_encoder(self) -> Path:
        """The finished model: model.safetensors, config.yaml, tokenizer.json."""
        return self.path / "contrastive" / "dual_encoder"

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage; the first process creates it when it asks for it first."""
        folder = StageFolder(name=name, path=self.path / name, metrics_file=self.metrics)
        if is_first_process():  # another may be here before the first has seen that the run's folder is free
            folder.path.mkdir(parents=True, exist_ok=True)
        return folder

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
        """Make a new run folder with its records; only the first process of a distributed run does.

        Args:
            path: output_dir/name.
            config: The resolved experiment as YAML.
            overrides: As given on the command line.
            plan: Derived values.
            data: Text of data.json.
            needed_bytes: Room that the run may take on disk.

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
            (path / "overrides.txt").write_text("".join(f"{one}\n" for one in overrides), encoding="utf-8")
            text = yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)
            run.plan.write_text(text, encoding="utf-8")
            run.environment.write_text(json.dumps(describe_environment(), indent=2) + "\n", encoding="utf-8")
            if data is not None:
                write_whole(run.data, data)
            # Last and in one piece: where it stands, there is a run, and other ranks may be looking.
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
            f"{self.path} holds {self.described()}, and it is left as it is; go on with it by --resume auto, choose "
            f"another name with name=NEW_NAME, or remove it first with rm -r {self.path}"
        )

    def _refuse_full_disk(self, needed_bytes: int) -> None:
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            if not any(self.path.iterdir()):
                self.path.rmdir()
            raise RunFolderError(
                f"the disk of {self.path} has {_mebibytes(free)} free, and this run may need "
                f"{_mebibytes(needed_bytes)}; make room, choose another disk with output_dir=FOLDER, or keep "
                "fewer checkpoints with checkpoint.keep_last=1"
            )

    def described(self) -> str:
        """The run that stands here, in words."""
        status = self.read_status()
        when = f" since {status['since']}" if "since" in status else ""
        match status.get("state"):
            case "finished":
                return "a finished run"
            case "running" if self.liveness() is not Liveness.dead:
                return f"a run that is under way (process {status.get('pid')}{when})"
            case "interrupted":
                return "an interrupted run"
            case "failed":
                return "a run that failed"
            case _:
                return "a run that ended without a word"

    def liveness(self) -> Liveness:
        """Whether a process is training here."""
        status = self.read_status()
        return liveness(status) if status.get("state") == "running" else Liveness.dead

    def has_finished(self, stage: str) -> bool:
        """Whether a stage of this run has handed on all that it gives."""
        last = self.image_encoder / "model.safetensors" if stage == "mae" else self.report
        return last.is_file()

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
            raise RunFolderError(f"{path} is not a run folder: it has no config.yaml{_siblings(run.path / 'x')}")
        if not (run.dual_encoder / "model.safetensors").is_file():
            only = " of MAE pre-training alone" if run.stages() == ["mae"] else ""
            raise RunFolderError(
                f"{path} has no finished model in contrastive/dual_encoder: it is {run.described()}{only}; "
                "give a run whose contrastive training has ended"
            )
        return run

    def read_status(self) -> dict[str, Any]:
        """The last status; empty if there is none that can be read."""
        try:
            status = json.loads((self.path / STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, state: str, **details: Any) -> None:
        """Replace the status: `running`, `finished`, `interrupted` or `failed`, with the time."""
        if not is_first_process():
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        status = {"state": state, "since": now, **describe_process(), **details}
        write_whole(self.path / STATUS, json.dumps(status, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keeps the status while a run goes on: running, then finished, interrupted or failed."""
        self.write_status("running")
        try:
            yield
        except BaseException as error:
            state = "interrupted" if was_interrupted(error) else "failed"
            with suppress(OSError):  # a full disk: the error on its way says so
                self.write_status(state, reason=f"{type(error).__name__}: {error}")
            raise
        self.write_status("finished")

    def stages(self) -> list[str]:
        """Names of the stages that have begun, in their order."""
        return [name for name in ("mae", "contrastive") if (self.path / name).is_dir()]

    def checkpoints(self) -> list[Path]:
        """The folders of all checkpoints, newest first: of the last stage that has any, then of the one before."""
        return [one for name in reversed(self.stages()) for one in checkpoint_folders(self.stage(name).checkpoints)]

    def handed_on(self) -> list[Path]:
        """The folders with exported weights that are complete."""
        return [one for one in (self.image_encoder, self.dual_encoder) if (one / "model.safetensors").is_file()]


def is_first_process() -> bool:
    """Whether this process is the one that writes and talks: rank zero, or the only one.

    Launchers say so in the environment before torch.distributed is set up: torchrun in RANK, Lightning's own
    in LOCAL_RANK and NODE_RANK, Slurm in SLURM_PROCID.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def was_interrupted(error: BaseException | None) -> bool:
    """Whether a signal is behind an error; Lightning turns Ctrl-C into SystemExit."""
    if isinstance(error, SystemExit):
        return was_interrupted(error.__cause__ or error.__context__)
    return isinstance(error, KeyboardInterrupt | StageInterrupted)


def _siblings(path: Path) -> str:
    """The runs that stand beside a path, for a message."""
    found = sorted(file.parent.name for file in path.parent.glob("*/config.yaml"))
    return f"; the runs in {path.parent} are {', '.join(found)}" if found else "; train one first with kelip pretrain"


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"
