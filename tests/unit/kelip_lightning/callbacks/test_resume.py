"""A stage that is stopped and continued sees the same batches and ends with the weights of one that never stopped."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data_modules.order.sampling import BatchOrder, Draw
from data_modules.stage_data import StageDataModule
from kelip_lightning.callbacks.checkpointing import BestMode, CheckpointCallback, CheckpointConfig
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.callbacks.loop_position import LoopPositionCallback
from kelip_lightning.callbacks.random_state import RandomStateCallback
from kelip_lightning.errors import CheckpointWriteError, StageInterrupted
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.optimizers import OptimizerConfig, ScheduleConfig
from kelip_lightning.runs import checkpoints

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
    """Dropout, so that the random stream counts; a signal to itself in the batch that is asked for."""

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


def fit(
    folder: Path,
    *,
    stop_at: int | None = None,
    config: CheckpointConfig | None = None,
    metrics: Iterator[float] | None = None,
    resume: bool = False,
    **options: Any,
) -> Regression:
    """Train, perhaps from the newest checkpoint, perhaps until a signal."""
    torch.manual_seed(3)
    module, signals, evaluated = Regression(stop_at), SignalWatch(), dict[int, Mapping[str, float]]()

    def newest() -> tuple[int, Mapping[str, float]] | None:
        step = trainer.global_step
        if metrics is not None and step not in evaluated:
            evaluated[step] = {"score": next(metrics)}
        return (step, evaluated[step]) if metrics is not None else None

    checkpoint = CheckpointCallback(
        config or CheckpointConfig(every_n_steps=100),
        folder,
        "mae",
        signals=signals,
        metrics_file=folder / "metrics.jsonl",
        clock=options.pop("clock", time.monotonic),
        metrics=newest,
        evaluated=lambda _: metrics is not None,
    )
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[checkpoint.io],
        callbacks=[LoopPositionCallback(), RandomStateCallback(0), checkpoint],
        default_root_dir=folder,
    )
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    found = checkpoints.newest_intact(folder)[0] if resume else None
    with signals:
        trainer.fit(
            module,
            datamodule=Data(seed=0, max_steps=STEPS),
            ckpt_path=found.state if found else None,
            weights_only=True,
        )
    return module


def stopped(folder: Path, stop_at: int) -> StageInterrupted:
    """What a stage says that a signal stopped in its micro-batch `stop_at`."""
    with pytest.raises(StageInterrupted) as caught:
        fit(folder, stop_at=stop_at)
    return caught.value


def steps_on_disk(folder: Path) -> list[int]:
    return [one.step for one in reversed(list(checkpoints.readable_checkpoints(folder)))]


@pytest.mark.parametrize("stop_after", [1, 3, 6])
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_resume__same_batches_and_weights(tmp_path: Path, stop_after: int) -> None:
    whole = fit(tmp_path / "whole")
    assert [step for step, _ in whole.seen] == list(range(STEPS))
    error = stopped(tmp_path, stop_after - 1)
    assert (error.step, error.by_user) == (stop_after, False)
    assert error.checkpoint == tmp_path / checkpoints.folder_name(stop_after)
    resumed = fit(tmp_path, resume=True)
    assert resumed.seen == whole.seen[stop_after:]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    assert torch.equal(resumed.layer.bias, whole.layer.bias)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_resume__without_its_random_stream_it_would_be_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tmp_path / "whole")
    stopped(tmp_path, 2)
    monkeypatch.setattr(RandomStateCallback, "on_train_batch_start", lambda *_: None)
    assert not torch.equal(fit(tmp_path, resume=True).layer.weight, whole.layer.weight)


def test_signal_before_the_first_step__nothing_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = CheckpointCallback.on_train_start

    def signal_at_start(self: CheckpointCallback, *arguments: Any) -> None:
        start(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(CheckpointCallback, "on_train_start", signal_at_start)
    with pytest.raises(StageInterrupted, match="after step 0; there is no checkpoint yet") as caught:
        fit(tmp_path)
    assert caught.value.by_user
    assert steps_on_disk(tmp_path) == []


def test_checkpoints__by_steps_and_at_the_end_the_last_two_stay(tmp_path: Path) -> None:
    fit(tmp_path, config=CheckpointConfig(every_n_steps=3))
    assert steps_on_disk(tmp_path) == [6, 7]


def test_checkpoints__by_minutes(tmp_path: Path) -> None:
    now = iter(range(0, 10_000, 10))  # ten seconds pass between two looks at the clock
    fit(
        tmp_path, config=CheckpointConfig(every_n_steps=None, every_n_minutes=0.5, keep_last=9), clock=lambda: next(now)
    )
    saved = steps_on_disk(tmp_path)
    assert saved[-1] == STEPS
    assert 2 < len(saved) < STEPS


def test_checkpoints__the_best_is_written_when_it_comes_and_stays(tmp_path: Path) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.9, 0.3, 0.2, 0.2, 0.1])
    fit(tmp_path, config=CheckpointConfig(every_n_steps=None, keep_last=1, best_metric="score"), metrics=scores)
    assert steps_on_disk(tmp_path) == [4, 7]
    assert checkpoints.read_checkpoint(tmp_path / "step=0000004").manifest.metric == 0.9


def test_checkpoints__less_may_be_better(tmp_path: Path) -> None:
    scores = iter([5.0, 4.0, 4.0, 6.0, 7.0, 8.0, 9.0, 9.0])
    config = CheckpointConfig(every_n_steps=None, keep_last=1, best_metric="score", best_mode=BestMode.min)
    fit(tmp_path, config=config, metrics=scores)
    assert steps_on_disk(tmp_path) == [2, 7]


def test_checkpoints__a_failed_save_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def fill_the_disk(state: Any, file: Any) -> None:
        if state["global_step"] == 4:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(CheckpointWriteError, match=r"of step 4 could not be written .*No space left"):
        fit(tmp_path, config=CheckpointConfig(every_n_steps=2))
    assert [one.name for one in tmp_path.glob("*step=*")] == ["step=0000002"]
    checkpoints.verify(checkpoints.read_checkpoint(tmp_path / "step=0000002"))
