"""The run's settings and headline metrics on TensorBoard's HParams page."""

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

Setting = bool | float | int | str


class HyperparametersCallback(pl.Callback):
    """Declares settings and metrics; the page then shows the last logged value of each metric.

    Lightning's own `log_hyperparams` is not used: it writes a first value of every metric, which its curve would show.

    Args:
        settings: Dotted key -> value.
        metrics: Names of logged scalars.
    """

    def __init__(self, settings: Mapping[str, Setting], metrics: Sequence[str]) -> None:
        super().__init__()
        self._settings = dict(settings)
        self._metrics = list(metrics)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the declaration; a resumed run has written it already."""
        if trainer.global_step:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                for summary in hparams(self._settings, dict.fromkeys(self._metrics, 0.0)):
                    logger.experiment.file_writer.add_summary(summary)


def flatten_settings(settings: Mapping[str, object], prefix: str = "") -> dict[str, Setting]:
    """Nested plain values as dotted key -> scalar; lists and null as text."""
    flat: dict[str, Setting] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
