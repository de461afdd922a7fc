"""One DDP step of a tiny dual encoder with a self-supervised loss, on one process or two."""

import os
from dataclasses import replace

import lightning.pytorch as pl
import torch
from torch import Tensor

from data_modules.text.tokenizer import train_tokenizer
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


def step(method: SelfSupervisionMethod, rank: int, world: int) -> dict[str, Tensor]:
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


def work(rank: int, port: int, folder: str) -> None:
    """One of two processes: a step of each method, whose weights go to METHOD-RANK.pt."""
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    for method in METHODS:
        torch.save(step(method, rank, 2), f"{folder}/{method.name}-{rank}.pt")
