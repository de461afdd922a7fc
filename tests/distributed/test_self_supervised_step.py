"""A DDP step with a self-supervised loss on two processes changes the weights as one process does."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, multiprocessing

from data_modules.tokenizer import train_tokenizer
from kelip_lightning.losses.contrastive import ContrastiveLossConfig
from kelip_lightning.models.self_supervision import SelfSupervisionConfig, SelfSupervisionMethod, build_branch
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig
from tests.distributed.step import BATCH, RATE, TEXTS, build_model, share, whole_batch

CROPS = (1, 1)
METHODS = (SelfSupervisionMethod.simclr, SelfSupervisionMethod.byol)


class PlainStep(ContrastiveModule):
    """One step of plain gradient descent, so that the change of a weight is its gradient."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([one for one in self.parameters() if one.requires_grad], lr=RATE)


def _step(method: SelfSupervisionMethod, rank: int, world: int) -> dict[str, Tensor]:
    """Weights after one step, and their state before it under `before/`."""
    tokenizer = train_tokenizer(TEXTS, 280, 12)
    model = build_model(tokenizer)
    config = SelfSupervisionConfig(method=method, projection_width=12, projection_dim=6, momentum=0.5)
    module = PlainStep(
        model,
        tokenizer,
        ContrastiveLossConfig(),
        OptimizerConfig(),
        ScheduleConfig(max_steps=1),
        self_supervision=build_branch(model.image_encoder, config),
    )
    views = torch.randint(0, 256, (2, BATCH, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    batch = share(replace(whole_batch(tokenizer, CROPS), views=views), rank, world)
    before = {f"before/{name}": value.clone() for name, value in module.state_dict().items()}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([batch], batch_size=None))
    return before | module.state_dict()


def _work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    for method in METHODS:
        torch.save(_step(method, rank, 2), f"{folder}/{method.name}-{rank}.pt")


@pytest.mark.distributed
def test_two_processes__change_weights_and_target_as_one_does(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_work, (port, str(tmp_path)), nprocs=2)
    for method in METHODS:
        expected = _step(method, 0, 1)
        found, other = (torch.load(tmp_path / f"{method.name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        for name in (one for one in expected if not one.startswith("before/")):
            assert torch.equal(found[name], other[name]), f"{name} differs between the ranks"
            before = expected[f"before/{name}"]
            assert torch.equal(before, found[f"before/{name}"])
            change = (expected[name] - before).norm()
            if name.endswith("k_proj.bias"):  # no gradient at all but for rounding
                continue
            assert change > 0, f"{name} of {method.name} never moved"
            # Weights are stored, so a small change is known to the rounding of the weight it is made to.
            rounding = 1e-6 * before.norm()
            assert (found[name] - expected[name]).norm() < 1e-4 * change + rounding, f"{name} of {method.name}"
