"""TensorBoard's pages: the charts of Custom Scalars in order, chance levels, and HParams.

The names of the scalars, and which page shows what, are listed in docs/monitoring.md.
"""

import re
from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from data_modules.languages import LANGUAGES
from kelip_lightning.evaluation.metric_names import split_name
from kelip_lightning.evaluation.suite import Evaluation

Setting = bool | float | int | str
Layout = dict[str, dict[str, tuple[str, list[str]]]]
"""Category -> chart -> "Multiline" and patterns of tags: what `SummaryWriter.add_custom_scalars` takes."""

DECISIVE = ("image_to_text_R@1", "image_to_text_R@5", "zero_shot_top1")
"""The metrics that decide between runs: columns of the HParams page, in both languages."""
_TITLES = {
    "image_to_text_R@1": "Image to text R@1, both languages, chance",
    "zero_shot_top1": "Zero-shot top-1, both languages, chance",
    "choice_top1": "Multiple choice top-1, both languages, chance",
    "ko_to_en_R@1": "Korean to English captions R@1 and back, chance",
    "image_to_text_R@5": "Image to text R@5, both languages, chance",
}
"""Metric -> its category, in order."""
_STAGES = "(mae|contrastive)"
_TRAINING = {
    "Learning rate and temperature": ("learning_rate", "temperature", "gradient_norm"),
    "Speed, memory, data": (
        "pairs_per_second", "mfu", "peak_memory_gib", "data_wait_share", "padding_share_(ko|en)", "epoch",
        "samples_seen",
    ),
}  # fmt: skip
_CHART_TITLES = {"mfu": "MFU", "padding_share_(ko|en)": "padding share", "epoch": "epoch (passes over the data)"}


def dashboard_layout(chance: Mapping[str, float], stages: Sequence[str]) -> Layout:
    """The charts of a run, what matters first: losses, metrics of both languages, optimisation, speed.

    TensorBoard merges the layouts of all runs; equal charts become one.

    Args:
        chance: Metric -> chance level, of all metrics that the run will have.
        stages: The stages of the run.
    """
    losses = {f"{stage} loss": _chart(f"{stage}/loss") for stage in stages}
    if "contrastive" in stages:
        losses["accuracy in the batch"] = _chart("contrastive/accuracy_(ko|en)")
    layout: Layout = {"Loss": losses}
    for metric, title in _TITLES.items():
        names = dict.fromkeys(split_name(key)[0] for key in chance if key.endswith(f"/{metric}"))
        if names:
            layout[title] = {name: _evaluation_chart(name, metric) for name in names}
    for title, scalars in _TRAINING.items():
        layout[title] = {
            _CHART_TITLES.get(name, name.replace("_", " ")): _chart(f"{_STAGES}/{name}") for name in scalars
        }
    layout[list(_TRAINING)[-1]]["skipped share"] = _chart("samples/skipped_share")
    return layout


def _chart(*patterns: str) -> tuple[str, list[str]]:
    return "Multiline", [f"^{pattern}$" for pattern in patterns]


def _evaluation_chart(name: str, metric: str) -> tuple[str, list[str]]:
    found = re.escape(name)
    metric = "(ko_to_en|en_to_ko)_R@1" if metric == "ko_to_en_R@1" else metric
    return _chart(f"eval/{found}(_ko|_en)?/{metric}", f"eval_chance/{found}(_ko|_en)?/{metric}")


def chance_lines(chance: Mapping[str, float]) -> dict[str, float]:
    """Tag -> level, for every chart of the layout; languages of equal chance share a tag."""
    charted = {key: level for key, level in chance.items() if key.rpartition("/")[2] in _TITLES}
    lines: dict[str, float] = {}
    by_chart: dict[tuple[str, str], list[str]] = {}
    for key in charted:
        by_chart.setdefault((split_name(key)[0], key.rpartition("/")[2]), []).append(key)
    for (name, metric), own in by_chart.items():
        levels = {chance[key] for key in own}
        tags = own if len(levels) > 1 else [f"eval/{name}/{metric}"]
        lines |= {tag.replace("eval/", "eval_chance/", 1): chance[key] for tag, key in zip(tags, own, strict=False)}
    return lines


class DashboardCallback(pl.Callback):
    """Writes the layout of the Custom Scalars page, and the chance levels at every evaluation.

    Args:
        chance: Metric -> chance level.
        stages: The stages of the run, whose charts the layout has.
    """

    def __init__(self, chance: Mapping[str, float], stages: Sequence[str]) -> None:
        super().__init__()
        self._layout, self._lines = dashboard_layout(chance, stages), chance_lines(chance)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the layout."""
        for logger in tensorboards(trainer):
            logger.experiment.add_custom_scalars(self._layout)

    def on_evaluation(self, trainer: pl.Trainer, step: int, evaluation: Evaluation) -> None:
        """Extend the lines of chance to this step."""
        for logger in tensorboards(trainer):
            for tag, level in self._lines.items():
                logger.experiment.add_scalar(tag, level, step)


def tensorboards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    """The TensorBoard loggers, on rank zero; elsewhere none."""
    return [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)] if trainer.is_global_zero else []


class HyperparametersCallback(pl.Callback):
    """Declares settings and metrics; the page then shows the last logged value of each metric.

    Lightning's own `log_hyperparams` also writes a first value of every metric, which its curve would show. Other
    loggers get all settings.

    Args:
        shown: Settings on TensorBoard's page, nested plain values; dotted keys there, lists and null as text.
        metrics: Names of logged scalars.
        settings: All settings, for other loggers.
    """

    def __init__(
        self, shown: Mapping[str, object], metrics: Sequence[str], settings: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._shown, self._all = flatten_settings(shown), flatten_settings(settings or shown)
        self._metrics = list(metrics)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the declaration, unless a resumed run has written it already."""
        if trainer.global_step:
            return
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._all)
        for tensorboard in tensorboards(trainer):
            for summary in hparams(self._shown, dict.fromkeys(self._metrics, 0.0)):
                tensorboard.experiment.file_writer.add_summary(summary)


def decisive_metrics(chance: Mapping[str, float]) -> list[str]:
    """The metrics of the HParams page: Korean beside English, sets in their order."""
    found = [key for key in chance if key.rpartition("/")[2] in DECISIVE]
    order = list(dict.fromkeys(split_name(key)[0] for key in found))
    languages = [None, *LANGUAGES]
    return sorted(
        found,
        key=lambda key: (
            order.index(split_name(key)[0]),
            DECISIVE.index(key.rpartition("/")[2]),
            languages.index(split_name(key)[1]),
        ),
    )


def flatten_settings(settings: Mapping[str, object], prefix: str = "") -> dict[str, Setting]:
    """Nested plain values as dotted key -> scalar; lists and null as text."""
    flat: dict[str, Setting] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
