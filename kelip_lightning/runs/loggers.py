"""The loggers of a stage: TensorBoard and metrics.jsonl always, Lightning's CSV, W&B and MLflow loggers by name."""

import json
import math
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from kelip_lightning.errors import ConfigError
from kelip_lightning.runs.folder import StageFolder, is_first_process, write_whole
from kelip_lightning.runs.metrics_file import MetricsFileLogger, read_metrics

PROJECT = "kelip-lightning"
"""Project of W&B and experiment of MLflow, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another."""
IDS = "loggers.json"
"""File of a stage's folder with the ids of its runs in W&B and MLflow."""


def build_loggers(names: Sequence[str], stage: StageFolder) -> list[Logger]:
    """The loggers of a stage; those of services are started, on the first process.

    A resumed stage goes on in the same run of W&B and MLflow, whose ids are in the stage's `IDS`.

    Args:
        names: Of `trainer.loggers`.
        stage: Where they write.

    Raises:
        ConfigError: A service cannot be used.
    """
    # A resumed stage repeats the steps after its checkpoint of k steps, whose last entries in TensorBoard are at step k
    # (evaluation) and k - 1 (training).
    purge = (stage.checkpoint.step + 1 if stage.checkpoint else 0) if stage.resumed else None
    loggers: list[Logger] = [
        StageTensorBoardLogger(stage.path, name="", version="", purge_step=purge),
        MetricsFileLogger(stage.metrics_file, stage=stage.name),
    ]
    for name in names:
        try:
            loggers.append(_BUILDERS[name](stage))
        except Exception as error:  # of a service, which may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError([f"trainer.loggers: {name} cannot be used ({reason}); {_REMEDIES[name]}"]) from error
    return loggers


class _WithoutEpoch(Logger):
    """Leaves out Lightning's epoch, which is 0 throughout: a stage is one Lightning epoch."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the entry, unless it holds only the epoch."""
        if values := {key: value for key, value in metrics.items() if key != "epoch"}:
            super().log_metrics(values, step)  # type: ignore[safe-super]  # beside one of Lightning's


class StageTensorBoardLogger(_WithoutEpoch, TensorBoardLogger):
    """Lightning's TensorBoard logger without its epoch."""


class StageCSVLogger(_WithoutEpoch, CSVLogger):  # type: ignore[misc]  # its own type of metrics is no Mapping
    """Lightning's CSV logger without its epoch, and without a second copy of the settings."""

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml holds them."""


class StageWandbLogger(_WithoutEpoch, WandbLogger):
    """Lightning's W&B logger without its epoch; each stage is a run of its own."""

    def finalize(self, status: str) -> None:
        """End W&B's run: the next stage of this process would otherwise go on in it."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


class StageMLFlowLogger(_WithoutEpoch, MLFlowLogger):
    """Lightning's MLflow logger without its epoch, with names that MLflow takes: `R_at_1` for `R@1`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the entry under allowed names; letters that Lightning would drop become their code points."""
        super().log_metrics({mlflow_name(key): value for key, value in metrics.items()}, step)


def mlflow_name(key: str) -> str:
    """A metric's name in the characters that Lightning's MLflow logger keeps."""
    return re.sub(r"[^a-zA-Z0-9_/. -]", lambda found: f"u{ord(found[0]):x}", key.replace("@", "_at_"))


def _csv(stage: StageFolder) -> Logger:
    """Lightning's logger replaces metrics.csv; a resumed stage writes the entries that metrics.jsonl kept again."""
    file = stage.path / "csv" / "metrics.csv"
    if not is_first_process():
        return StageCSVLogger(stage.path, name="csv", version="")
    file.unlink(missing_ok=True)
    logger = StageCSVLogger(stage.path, name="csv", version="")
    for entry in read_metrics(stage.metrics_file) if stage.resumed and stage.metrics_file.is_file() else ():
        if entry.pop("stage") == stage.name:
            step: int = entry.pop("step")
            # As Lightning writes what is not finite.
            logger.log_metrics({key: math.nan if value is None else value for key, value in entry.items()}, step)
    logger.save()
    return logger


def _wandb(stage: StageFolder) -> Logger:
    found = _stored_ids(stage).get("wandb") or uuid.uuid4().hex[:8]
    run = stage.path.parent.name
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    logger = StageWandbLogger(
        name=f"{run}/{stage.name}", group=run, job_type=stage.name, project=project, save_dir=stage.path, version=found
    )
    if is_first_process():
        _store_id(stage, "wandb", found)
        _ = logger.experiment
    return logger


def _mlflow(stage: StageFolder) -> Logger:
    run = stage.path.parent
    store = f"sqlite:///{(run.parent / 'mlflow.db').resolve()}"
    logger = StageMLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=f"{run.name}/{stage.name}",
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", store),
        artifact_location=None,
        run_id=_stored_ids(stage).get("mlflow"),
    )
    if is_first_process():
        found = logger.run_id
        assert found is not None
        _store_id(stage, "mlflow", found)
        logger.experiment.update_run(found, status="RUNNING")
    return logger


def _stored_ids(stage: StageFolder) -> dict[str, str]:
    """loggers.json of a stage: name of a logger -> id of its run."""
    file = stage.path / IDS
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _store_id(stage: StageFolder, name: str, found: str) -> None:
    stage.path.mkdir(parents=True, exist_ok=True)
    write_whole(stage.path / IDS, json.dumps(_stored_ids(stage) | {name: found}, indent=2) + "\n")


_BUILDERS = {"csv": _csv, "wandb": _wandb, "mlflow": _mlflow}
_REMEDIES = {
    "csv": "check the file that it names",
    "wandb": "run wandb login, or set WANDB_MODE=offline, or leave it out",
    "mlflow": "check MLFLOW_TRACKING_URI, or leave it out",
}
