"""The number of CPU threads in the steps of a run, whatever the launcher has set."""

import os
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kelip_lightning.callbacks.threads import ThreadsCallback
from tests.trainers import quiet_trainer


class _CountsThreads(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.found: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.found.append(torch.get_num_threads())
        loss: Tensor = self.layer(batch).sum()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_threads__of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _CountsThreads()
    # Without it, Lightning's launcher shares the cores of the machine by itself.
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trainer = quiet_trainer(2, strategy="ddp", callbacks=[ThreadsCallback(3)])
    launch: Callable[..., Any] = trainer.strategy.launcher.launch  # type: ignore[union-attr]

    def launched(*arguments: Any, **options: Any) -> Any:
        found = launch(*arguments, **options)
        assert "OMP_NUM_THREADS" in os.environ, "the launcher has set a number"
        return found

    monkeypatch.setattr(trainer.strategy.launcher, "launch", launched)
    try:
        trainer.fit(module, DataLoader(torch.ones(4, 1), batch_size=1))
    finally:
        torch.distributed.destroy_process_group()
    assert module.found == [3, 3]
