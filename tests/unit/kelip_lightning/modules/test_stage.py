"""Optimizer, schedule, clipping and logging in a Trainer."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kelip_lightning.distributed.gather import global_ratios
from kelip_lightning.modules import stage
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from tests.trainers import quiet_trainer

STEPS = 5
INPUTS = torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(0))


class Regression(StageModule):
    stage_name = "regression"

    def __init__(self, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
        super().__init__(optimizer, schedule)
        self.layer = nn.Linear(3, 1)

    def compile_model(self) -> None:
        self.layer.compile()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch).square().mean()
        if self.logs_this_step:
            self.log_ratios({"loss": (loss.detach(), 1.0), "share": (loss.detach(), 4 * loss.detach())})
        return loss


class Recorder(pl.Callback):
    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def _fit(folder: Path, clip: float | None, log_every: int = 1) -> tuple[Regression, list[dict[str, float]]]:
    torch.manual_seed(0)
    optimizer = OptimizerConfig(learning_rate=0.05, weight_decay=0.1, gradient_clip_norm=clip)
    module, recorder = Regression(optimizer, ScheduleConfig(max_steps=STEPS, warmup_steps=2)), Recorder()
    options = {"gradient_clip_val": clip, "log_every_n_steps": log_every, "default_root_dir": folder}
    trainer = quiet_trainer(STEPS, callbacks=[recorder], **options)
    trainer.fit(module, DataLoader(list(INPUTS[:STEPS]), batch_size=None))
    return module, recorder.logged


@pytest.mark.parametrize("clip", [None, 0.1])
def test_stage__equals_a_plain_torch_loop(tmp_path: Path, clip: float | None) -> None:
    module, logged = _fit(tmp_path, clip)
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    groups = [{"params": [layer.bias], "weight_decay": 0.0}, {"params": [layer.weight], "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.98), eps=1e-6)
    shares = [0.5, 1.0, 1.0, 0.75, 0.25]
    for step, share in enumerate(shares):
        optimizer.zero_grad()
        layer(INPUTS[step]).square().mean().backward()
        norm = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).norm()
        at_step = logged[step]
        assert at_step["regression/gradient_norm"] == pytest.approx(norm.item(), rel=1e-5), "before clipping"
        assert at_step["regression/learning_rate"] == pytest.approx(0.05 * share)
        if clip is not None:
            nn.utils.clip_grad_norm_(layer.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * share
        optimizer.step()
    torch.testing.assert_close(module.layer.weight, layer.weight)
    torch.testing.assert_close(module.layer.bias, layer.bias)


def test_log_ratios__under_the_name_of_the_stage(tmp_path: Path) -> None:
    _, logged = _fit(tmp_path, None)
    assert set(logged[0]) == {
        "regression/loss",
        "regression/share",
        "regression/gradient_norm",
        "regression/learning_rate",
    }
    assert logged[0]["regression/loss"] != logged[1]["regression/loss"], "values of the step, no running means"
    assert logged[0]["regression/share"] == 0.25


def test_log_ratios__reduces_in_logged_steps_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reduction every n steps, and one for the metrics of the last step."""
    every_step = _fit(tmp_path, None)[1]
    calls: list[int] = []

    def counted(*arguments: Any) -> list[float]:
        calls.append(1)
        return global_ratios(*arguments)

    monkeypatch.setattr(stage, "global_ratios", counted)
    logged = _fit(tmp_path, None, log_every=2)[1]
    assert len(calls) == 3
    assert logged[0] == {}
    assert [logged[step] for step in (1, 2, 3, 4)] == [every_step[step] for step in (1, 1, 3, 4)]
