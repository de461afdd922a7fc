"""The event file declares the settings and metrics, and writes no value of a metric."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from kelip_lightning.callbacks.hyperparameters import HyperparametersCallback, flatten_settings

SETTINGS = {"optimizer.name": "muon", "optimizer.learning_rate": 0.002, "trainer.devices": 1, "deterministic": True}


def _declarations(folder: Path) -> tuple[dict[str, Any], set[str], list[str]]:
    """Settings, metrics and scalar curves of an event file."""
    events = EventAccumulator(str(folder)).Reload()
    content = {
        tag: HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)
        for tag in events.PluginTagToContent("hparams")
    }
    start = content["_hparams_/session_start_info"].session_start_info.hparams
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    metrics = {info.name.tag for info in content["_hparams_/experiment"].experiment.metric_infos}
    return settings, metrics, events.Tags()["scalars"]


def test_hyperparameters__event_file_holds_settings_and_metrics(
    fit: Callable[..., tuple[pl.Trainer, Any]], tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit([HyperparametersCallback(SETTINGS, ["train/loss", "eval/a_ko"])], steps=1, logger=logger)
    logger.finalize("success")
    settings, metrics, curves = _declarations(tmp_path)
    assert settings == SETTINGS
    assert metrics == {"train/loss", "eval/a_ko"}
    assert "eval/a_ko" not in curves, "declared, not written"


def test_hyperparameters__without_tensorboard(fit: Callable[..., tuple[pl.Trainer, Any]]) -> None:
    fit([HyperparametersCallback(SETTINGS, ["train/loss"])], steps=1)


def test_flatten_settings__dotted_keys_and_text_for_the_rest() -> None:
    nested = {"a": {"b": {"c": 1}, "d": None}, "e": [1, "x"], "f": True, "g": 0.5, "h": {}}
    assert flatten_settings(nested) == {"a.b.c": 1, "a.d": "None", "e": "[1, 'x']", "f": True, "g": 0.5}
