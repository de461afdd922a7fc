"""TensorBoard's pages as the event file has them: HParams, the layout of Custom Scalars, chance levels."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from kelip_lightning.callbacks.dashboard import (
    DashboardCallback,
    HyperparametersCallback,
    chance_lines,
    dashboard_layout,
    decisive_metrics,
    flatten_settings,
)
from kelip_lightning.evaluation.suite import Evaluation

SETTINGS = {"optimizer.name": "muon", "optimizer.learning_rate": 0.002, "trainer.devices": 1, "deterministic": True}
Fit = Callable[..., tuple[pl.Trainer, Any]]
CHANCE = {
    "eval/photos_ko/image_to_text_R@1": 0.01,
    "eval/photos_ko/image_to_text_R@5": 0.05,
    "eval/photos_ko/image_to_text_median_rank": 50.5,
    "eval/photos_en/image_to_text_R@1": 0.01,
    "eval/photos_en/image_to_text_R@5": 0.06,
    "eval/birds_ko/zero_shot_top1": 0.1,
    "eval/birds_en/zero_shot_top1": 0.1,
    "eval/names/ko_to_en_R@1": 0.02,
    "eval/names/en_to_ko_R@1": 0.02,
    "eval/names/ko_to_en_centred_R@1": 0.02,
}


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


def test_hyperparameters__event_file_holds_settings_and_metrics(fit: Fit, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit([HyperparametersCallback(SETTINGS, ["contrastive/loss", "eval/a_ko"])], steps=1, logger=logger)
    logger.finalize("success")
    settings, metrics, curves = _declarations(tmp_path)
    assert settings == SETTINGS
    assert metrics == {"contrastive/loss", "eval/a_ko"}
    assert "eval/a_ko" not in curves, "declared, not written"


def test_hyperparameters__without_tensorboard(fit: Fit) -> None:
    fit([HyperparametersCallback(SETTINGS, ["contrastive/loss"])], steps=1)


def test_flatten_settings__dotted_keys_and_text_for_the_rest() -> None:
    nested = {"a": {"b": {"c": 1}, "d": None}, "e": [1, "x"], "f": True, "g": 0.5, "h": {}}
    assert flatten_settings(nested) == {"a.b.c": 1, "a.d": "None", "e": "[1, 'x']", "f": True, "g": 0.5}


def test_hyperparameters__other_loggers_get_all_settings(fit: Fit, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Other(TensorBoardLogger):
        pass

    class Service(pl.loggers.CSVLogger):
        def log_hyperparams(self, params: Any = None) -> None:
            seen.append(params)

    callback = HyperparametersCallback({"seed": 1}, [], {"seed": 1, "data": {"order": None}})
    fit([callback], steps=1, logger=[Other(tmp_path), Service(tmp_path)])
    assert seen == [{"seed": 1, "data.order": "None"}]


def test_decisive_metrics__korean_beside_english() -> None:
    assert decisive_metrics(CHANCE) == [
        "eval/photos_ko/image_to_text_R@1",
        "eval/photos_en/image_to_text_R@1",
        "eval/photos_ko/image_to_text_R@5",
        "eval/photos_en/image_to_text_R@5",
        "eval/birds_ko/zero_shot_top1",
        "eval/birds_en/zero_shot_top1",
    ]


def test_layout__what_matters_first() -> None:
    layout = dashboard_layout(CHANCE, ["mae", "contrastive"])
    assert [(title.partition(",")[0], list(charts)) for title, charts in layout.items()] == [
        ("Loss", ["mae loss", "contrastive loss", "accuracy in the batch"]),
        ("Image to text R@1", ["photos"]),
        ("Zero-shot top-1", ["birds"]),
        ("Korean to English captions R@1 and back", ["names"]),
        ("Image to text R@5", ["photos"]),
        ("Learning rate and temperature", ["learning rate", "temperature", "gradient norm"]),
        (
            "Speed",
            [
                "pairs per second", "MFU", "peak memory gib", "data wait share", "padding share",
                "epoch (passes over the data)", "samples seen", "skipped share",
            ],
        ),
    ]  # fmt: skip
    assert list(dashboard_layout({}, ["mae"])["Loss"]) == ["mae loss"]


def test_layout__each_chart_has_both_languages_and_chance() -> None:
    tags = [*CHANCE, *chance_lines(CHANCE)]
    layout = dashboard_layout(CHANCE, ["contrastive"])

    def found(title: str, chart: str) -> list[str]:
        patterns = next(charts for name, charts in layout.items() if name.startswith(title))[chart][1]
        return [tag for tag in tags if any(re.match(one, tag) for one in patterns)]

    assert found("Image to text R@1", "photos") == [
        "eval/photos_ko/image_to_text_R@1", "eval/photos_en/image_to_text_R@1", "eval_chance/photos/image_to_text_R@1",
    ]  # fmt: skip
    assert found("Korean to English", "names") == [
        "eval/names/ko_to_en_R@1", "eval/names/en_to_ko_R@1", "eval_chance/names/ko_to_en_R@1",
    ]  # fmt: skip


def test_chance_lines__one_for_both_languages_if_it_is_equal() -> None:
    assert chance_lines(CHANCE) == {
        "eval_chance/photos/image_to_text_R@1": 0.01,
        "eval_chance/photos_ko/image_to_text_R@5": 0.05,
        "eval_chance/photos_en/image_to_text_R@5": 0.06,
        "eval_chance/birds/zero_shot_top1": 0.1,
        "eval_chance/names/ko_to_en_R@1": 0.02,
    }


def test_dashboard__event_file_holds_layout_and_chance(fit: Fit, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    dashboard = DashboardCallback(CHANCE, ["contrastive"])
    trainer, _ = fit([dashboard], steps=1, logger=logger)
    for step in (0, 3):
        dashboard.on_evaluation(trainer, step, Evaluation())
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path)).Reload()
    layout = Layout.FromString(events.Tensors(CONFIG_SUMMARY_TAG)[0].tensor_proto.string_val[0])
    assert [one.title for one in layout.category] == list(dashboard_layout(CHANCE, ["contrastive"]))
    points = events.Scalars("eval_chance/birds/zero_shot_top1")
    assert [one.step for one in points] == [0, 3]
    assert points[0].value == points[1].value != 0


def test_dashboard__without_tensorboard(fit: Fit) -> None:
    dashboard = DashboardCallback(CHANCE, ["contrastive"])
    dashboard.on_evaluation(fit([dashboard], steps=1)[0], 0, Evaluation())
