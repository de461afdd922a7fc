"""The loggers of a stage: CSV for real, W&B and MLflow as installed, and stand-ins that note what they are given."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kelip_lightning.errors import ConfigError
from kelip_lightning.runs import loggers
from kelip_lightning.runs.folder import StageFolder
from kelip_lightning.runs.loggers import IDS, build_loggers, mlflow_name
from kelip_lightning.runs.metrics_file import MetricsFileLogger, cut_record, read_metrics


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    path = tmp_path / "run" / "contrastive"
    path.mkdir(parents=True)
    return StageFolder(name="contrastive", path=path, metrics_file=tmp_path / "run" / "metrics.jsonl")


def _rows(stage: StageFolder) -> list[dict[str, str]]:
    with (stage.path / "csv" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_build_loggers__write_no_epoch_of_lightning(stage: StageFolder) -> None:
    for logger in build_loggers(["csv"], stage):
        logger.log_metrics({"contrastive/loss": 0.5, "epoch": 0}, 3)
        logger.log_metrics({"epoch": 0}, 4)
        logger.finalize("success")
    events = EventAccumulator(str(stage.path)).Reload()
    assert events.Tags()["scalars"] == ["contrastive/loss"]
    assert [(one.step, one.value) for one in events.Scalars("contrastive/loss")] == [(3, 0.5)]
    assert _rows(stage) == [{"contrastive/loss": "0.5", "step": "3"}]
    assert list(read_metrics(stage.metrics_file)) == [{"stage": "contrastive", "step": 3, "contrastive/loss": 0.5}]


def test_csv__a_resumed_stage_has_the_steps_before_its_checkpoint_once(stage: StageFolder) -> None:
    MetricsFileLogger(stage.metrics_file, stage="mae").log_metrics({"mae/loss": 9.0}, 0)
    first = build_loggers(["csv"], stage)
    length = 0
    for step in range(5):
        for logger in first:
            logger.log_metrics({"contrastive/loss": float(step), "contrastive/accuracy_en": float("nan")}, step)
        if step == 2:
            length = stage.metrics_file.stat().st_size
    first[2].save()
    cut_record(stage.metrics_file, "contrastive", length)  # what `open_stage` does
    second = build_loggers(["csv"], replace(stage, resumed=True))
    for logger in second:
        logger.log_metrics({"contrastive/loss": 30.0}, 3)
        logger.finalize("success")
    found = [(row["step"], row["contrastive/loss"]) for row in _rows(stage)]
    assert found == [("0", "0.0"), ("1", "1.0"), ("2", "2.0"), ("3", "30.0")]


class _Service:
    """Stands for Lightning's logger of a service, and notes what it is given."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **options: Any) -> None:
        self.made.append(options)
        self.run_id = options.get("run_id") or "run-7"
        self.updates: list[tuple[str, str]] = []
        self.experiment = SimpleNamespace(update_run=lambda found, status: self.updates.append((found, status)))


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(_Service, "made", [])
    for name in ("StageWandbLogger", "StageMLFlowLogger"):
        monkeypatch.setattr(loggers, name, _Service)
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return _Service.made


def test_services__are_told_run_and_stage_and_continue_when_resumed(
    stage: StageFolder, services: list[dict[str, Any]]
) -> None:
    build_loggers(["wandb", "mlflow"], stage)
    ids = json.loads((stage.path / IDS).read_text(encoding="utf-8"))
    assert ids == {"wandb": services[0]["version"], "mlflow": "run-7"}
    wandb, mlflow = services
    assert (wandb["name"], wandb["group"], wandb["project"]) == ("run/contrastive", "run", "kelip-lightning")
    assert mlflow["run_name"] == "run/contrastive"
    assert mlflow["run_id"] is None
    assert mlflow["tracking_uri"] == f"sqlite:///{stage.path.parents[1]}/mlflow.db"
    build_loggers(["wandb", "mlflow"], replace(stage, resumed=True))
    assert (services[2]["version"], services[3]["run_id"]) == (ids["wandb"], "run-7")


def test_services__their_own_variables_come_first(
    stage: StageFolder, services: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    build_loggers(["wandb", "mlflow"], stage)
    assert (services[0]["project"], services[1]["tracking_uri"]) == ("ours", "http://tracking")


def test_services__other_ranks_start_none(
    stage: StageFolder, services: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    build_loggers(["csv", "wandb", "mlflow"], stage)
    assert len(services) == 2
    assert list(stage.path.iterdir()) == []


def test_services__that_cannot_be_used_are_a_sentence(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setattr(loggers, "StageWandbLogger", refuse)
    with pytest.raises(ConfigError, match=r"^trainer.loggers: wandb .* \(api_key not .* \(no-tty\)\); run wandb login"):
        build_loggers(["wandb"], stage)


def test_wandb__offline(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = build_loggers(["wandb"], stage)[2]
    assert wandb.run.id == json.loads((stage.path / IDS).read_text(encoding="utf-8"))["wandb"]
    logger.log_hyperparams({"seed": 3})
    logger.log_metrics({"contrastive/loss": 0.5, "epoch": 0}, 0)
    assert dict(wandb.run.summary)["contrastive/loss"] == 0.5
    assert wandb.run.config["seed"] == 3
    logger.finalize("success")
    assert wandb.run is None, "the next stage has a run of its own"
    assert list(stage.path.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow__in_a_local_store(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = []
    for resumed in (False, True):
        logger = build_loggers(["mlflow"], replace(stage, resumed=resumed))[2]
        logger.log_metrics(
            {"eval/사과_ko/image_to_text_R@1": 0.5 + resumed, "x": float("nan"), "epoch": 0}, int(resumed)
        )
        logger.finalize("success")
        found.append(logger.run_id)  # type: ignore[attr-defined]
    assert found[0] == found[1]
    store = client(f"sqlite:///{stage.path.parents[1]}/mlflow.db")
    assert store.get_run(found[0]).info.run_name == "run/contrastive"
    history = store.get_metric_history(found[0], mlflow_name("eval/사과_ko/image_to_text_R@1"))
    assert [(one.step, one.value) for one in history] == [(0, 0.5), (1, 1.5)]


def test_mlflow_name__keeps_names_apart() -> None:
    assert mlflow_name("eval/set_ko/image_to_text_R@1") == "eval/set_ko/image_to_text_R_at_1"
    assert mlflow_name("eval/사과/x") != mlflow_name("eval/배나/x")
