"""A run that is stopped by a signal and continued ends with the weights of one that was never stopped."""

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data_modules.sampling import BatchOrder, Draw
from data_modules.stage_data import StageDataModule
from kelip_lightning.callbacks.interruption import InterruptionCallback
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig

STEPS, BATCH = 7, 4
INPUTS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


class Data(StageDataModule):
    def train_dataloader(self) -> "DataLoader[Tensor]":
        sampler = self.build_sampler(BatchOrder(lengths=(10,), weights=(1.0,), global_batch_size=BATCH, seed=0))

        class Rows(torch.utils.data.Dataset[Tensor]):
            def __getitem__(self, draw: Draw) -> Tensor:
                return torch.cat([INPUTS[draw.sample_id], torch.tensor([draw.step, draw.sample_id])])

        return DataLoader(Rows(), batch_sampler=sampler)


class Regression(StageModule):
    def __init__(self) -> None:
        super().__init__(OptimizerConfig(learning_rate=0.1), ScheduleConfig(max_steps=STEPS, warmup_steps=2))
        self.layer = nn.Linear(3, 1)
        self.seen: list[tuple[int, list[float]]] = []
        self.stop_at: int | None = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if len(self.seen) == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        self.seen.append((self.trainer.global_step, batch[:, 3:].flatten().tolist()))
        return self.layer(batch[:, :3]).square().mean()


def _fit(folder: Path, accumulate: int, stop_at: int | None = None, checkpoint: Path | None = None) -> Regression:
    torch.manual_seed(3)
    module = Regression()
    module.stop_at = stop_at
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=1,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[InterruptionCallback(folder / "interrupted.ckpt")],
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=Data(seed=0, max_steps=STEPS), ckpt_path=checkpoint, weights_only=False)
    return module


@pytest.mark.parametrize("stop_after", [1, 3, 6])
@pytest.mark.parametrize("accumulate", [1])  # the loader serves whole shares; whoever accumulates cuts them
def test_resume__same_batches_and_weights(tmp_path: Path, accumulate: int, stop_after: int) -> None:
    whole = _fit(tmp_path / "whole", accumulate)
    assert [step for step, _ in whole.seen] == [step for step in range(STEPS) for _ in range(accumulate)]
    stopped = _fit(tmp_path, accumulate, stop_at=stop_after * accumulate - 1)
    assert stopped.seen == whole.seen[: stop_after * accumulate]
    resumed = _fit(tmp_path, accumulate, checkpoint=tmp_path / "interrupted.ckpt")
    assert resumed.seen == whole.seen[stop_after * accumulate :]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    assert torch.equal(resumed.layer.bias, whole.layer.bias)
