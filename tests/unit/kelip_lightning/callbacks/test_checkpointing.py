"""Checkpoints by steps, time, metric and signal; a resumed stage equals an uninterrupted one; the export at the end."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data_modules.loading import StageDataModule
from data_modules.order.sampling import BatchOrder, Draw
from kelip_lightning.callbacks.checkpointing import CheckpointCallback, ExportCallback
from kelip_lightning.callbacks.config import BestMode, CheckpointConfig
from kelip_lightning.callbacks.exact_resume import ExactResumeCallback
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.errors import CheckpointWriteError, StageInterrupted
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from kelip_lightning.runs import checkpoints
from kelip_lightning.runs.folder import StageFolder
from tests.trainers import quiet_trainer

STEPS, BATCH = 7, 4
INPUTS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


class Rows(Dataset[Tensor]):
    def __getitem__(self, draw: Draw) -> Tensor:
        return torch.cat([INPUTS[draw.sample_id], torch.tensor([draw.step, draw.sample_id])])


class Data(StageDataModule):
    def train_dataloader(self) -> "DataLoader[Tensor]":
        order = BatchOrder(lengths=(10,), weights=(1.0,), global_batch_size=BATCH, seed=0)
        return DataLoader(Rows(), batch_sampler=self.build_sampler(order))


class Regression(StageModule):
    """With dropout, so that the random stream counts; sends itself a signal in batch `stop_at`."""

    stage_name = "regression"

    def __init__(self, stop_at: int | None) -> None:
        super().__init__(OptimizerConfig(learning_rate=0.1), ScheduleConfig(max_steps=STEPS, warmup_steps=2))
        self.layer = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.5)
        self.seen: list[tuple[int, list[float]]] = []
        self._stop_at = stop_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if len(self.seen) == self._stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.seen.append((self.trainer.global_step, batch[:, 3:].flatten().tolist()))
        return self.dropout(self.layer(batch[:, :3])).square().mean()


def train(
    folder: Path,
    *,
    stop_at: int | None = None,
    config: CheckpointConfig | None = None,
    metrics: Iterator[float] | None = None,
    resume: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Regression:
    """Train, perhaps from the newest checkpoint, perhaps until a signal."""
    torch.manual_seed(3)
    module, signals, history = Regression(stop_at), SignalWatch(), dict[int, Any]()

    def newest() -> tuple[int, dict[str, float]]:
        step = trainer.global_step
        if step not in history:
            history[step] = {"score": next(metrics or iter(()))}
        return step, history[step]

    evaluation: Any = SimpleNamespace(newest=newest, was_at=lambda _: True) if metrics else None
    stage = StageFolder(name="mae", path=folder, metrics_file=folder / "metrics.jsonl")
    checkpoint = CheckpointCallback(
        config or CheckpointConfig(every_n_steps=100), stage, signals=signals, clock=clock, evaluation=evaluation
    )
    trainer = quiet_trainer(
        STEPS,
        plugins=[checkpoint.io],
        callbacks=[ExactResumeCallback(stage, 0), checkpoint],
        default_root_dir=folder,
    )
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    found = checkpoints.newest_intact(stage.checkpoints)[0] if resume else None
    with signals:
        trainer.fit(
            module,
            datamodule=Data(seed=0, max_steps=STEPS),
            ckpt_path=found.state if found else None,
            weights_only=True,
        )
    return module


def stopped(folder: Path, stop_at: int) -> StageInterrupted:
    """The error of a stage that a signal stopped in batch `stop_at`."""
    with pytest.raises(StageInterrupted) as caught:
        train(folder, stop_at=stop_at)
    return caught.value


def steps_on_disk(folder: Path) -> list[int]:
    return [one.step for one in reversed(list(checkpoints.readable_checkpoints(folder / "checkpoints")))]


@pytest.mark.parametrize("stop_after", [1, 3, 6])
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_resume__same_batches_and_weights(tmp_path: Path, stop_after: int) -> None:
    whole = train(tmp_path / "whole")
    assert [step for step, _ in whole.seen] == list(range(STEPS))
    error = stopped(tmp_path, stop_after - 1)
    assert (error.step, error.by_user) == (stop_after, False)
    assert error.checkpoint == tmp_path / "checkpoints" / checkpoints.folder_name(stop_after)
    resumed = train(tmp_path, resume=True)
    assert resumed.seen == whole.seen[stop_after:]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    assert torch.equal(resumed.layer.bias, whole.layer.bias)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_resume__differs_without_the_random_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole")
    stopped(tmp_path, 2)
    monkeypatch.setattr(ExactResumeCallback, "on_train_batch_start", lambda *_: None)
    assert not torch.equal(train(tmp_path, resume=True).layer.weight, whole.layer.weight)


def test_signal_before_the_first_step__nothing_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = CheckpointCallback.on_train_start

    def signal_at_start(self: CheckpointCallback, *arguments: Any) -> None:
        start(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(CheckpointCallback, "on_train_start", signal_at_start)
    with pytest.raises(StageInterrupted, match="after step 0; no checkpoint yet") as caught:
        train(tmp_path)
    assert caught.value.by_user
    assert steps_on_disk(tmp_path) == []


def test_checkpoints__by_steps_and_at_the_end_the_last_two_stay(tmp_path: Path) -> None:
    train(tmp_path, config=CheckpointConfig(every_n_steps=3))
    assert steps_on_disk(tmp_path) == [6, 7]


def test_checkpoints__by_minutes(tmp_path: Path) -> None:
    now = iter(range(0, 10_000, 10))  # ten seconds pass between two looks at the clock
    train(
        tmp_path, config=CheckpointConfig(every_n_steps=None, every_n_minutes=0.5, keep_last=9), clock=lambda: next(now)
    )
    saved = steps_on_disk(tmp_path)
    assert saved[-1] == STEPS
    assert 2 < len(saved) < STEPS


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        (BestMode.max, [0.5, 0.4, 0.3, 0.9, 0.3, 0.2, 0.2, 0.1], 4),
        (BestMode.min, [5.0, 4.0, 4.0, 6.0, 7.0, 8.0, 9.0, 9.0], 2),
    ],
)
def test_checkpoints__the_best_is_written_and_kept(
    tmp_path: Path, mode: BestMode, scores: list[float], best: int
) -> None:
    config = CheckpointConfig(every_n_steps=None, keep_last=1, best_metric="score", best_mode=mode)
    train(tmp_path, config=config, metrics=iter(scores))
    assert steps_on_disk(tmp_path) == [best, STEPS]
    kept = checkpoints.read_checkpoint(tmp_path / "checkpoints" / checkpoints.folder_name(best))
    assert kept.manifest.metric == scores[best - 1]


def test_checkpoints__a_failed_save_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def fill_the_disk(state: Any, file: Any) -> None:
        if state["global_step"] == 4:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(CheckpointWriteError, match=r"of step 4 could not be written .*No space left"):
        train(tmp_path, config=CheckpointConfig(every_n_steps=2))
    assert [one.name for one in (tmp_path / "checkpoints").glob("*step=*")] == ["step=0000002"]
    checkpoints.verify(checkpoints.read_checkpoint(tmp_path / "checkpoints" / "step=0000002"))


Fit = Callable[..., tuple[pl.Trainer, Any]]


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


@pytest.mark.parametrize(("stop_at", "expected"), [(9, [1.0]), (2, [])])
def test_export__once_when_every_step_was_taken(fit: Fit, stop_at: int, expected: list[float]) -> None:
    exported: list[float] = []
    fit([StopAt(stop_at), ExportCallback(lambda: exported.append(1.0))], steps=3)
    assert exported == expected


def test_export__not_after_an_error(fit: Fit) -> None:
    exported: list[float] = []

    def fail() -> None:
        raise RuntimeError("broken step")

    with pytest.raises(RuntimeError, match="broken step"):
        fit([ExportCallback(lambda: exported.append(1.0))], in_step=fail)
    assert exported == []


def test_export__its_own_error_is_raised(fit: Fit) -> None:
    def full_disk() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fit([ExportCallback(full_disk)], steps=1)
