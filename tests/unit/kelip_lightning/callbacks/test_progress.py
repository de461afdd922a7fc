"""The progress bar counts optimizer steps and shows the few metrics."""

import io
from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from kelip_lightning.callbacks.progress import PairProgressBar
from kelip_lightning.callbacks.throughput import ThroughputCallback


def _shown(bar: RichProgressBar) -> str:
    assert bar.progress is not None
    console = Console(file=io.StringIO(), width=160)
    console.print(bar.progress.make_tasks_table(bar.progress.tasks))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_pair_progress_bar__stage_steps_and_metrics(fit: Callable[..., Any]) -> None:
    bar = PairProgressBar("contrastive")
    fit([ThroughputCallback(), bar], steps=3, enable_progress_bar=True)
    assert bar.progress is not None
    task = bar.progress.tasks[0]
    assert (task.description, task.total, task.completed) == ("contrastive", 3, 3)
    metrics = bar.get_metrics(bar.trainer, bar.trainer.lightning_module)
    assert list(metrics) == ["loss", "ko", "en", "pairs/s"]
    assert (metrics["ko"], metrics["en"]) == ("25%", "50%")
    assert "3/3" in _shown(bar)


def test_pair_progress_bar__without_metrics(fit: Callable[..., Any]) -> None:
    bar = PairProgressBar("MAE pre-training")
    fit([bar], steps=1, enable_progress_bar=True)
    assert "pairs/s" not in bar.get_metrics(bar.trainer, bar.trainer.lightning_module)
    assert "MAE pre-training" in _shown(bar)
