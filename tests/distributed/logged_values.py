"""What training logs, on one process or several; a module of its own, since new processes have to import it."""

import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import multiprocessing

from data_modules.records import ImageBatch, ImageTextBatch
from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning.losses.contrastive import ContrastiveLossConfig
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from kelip_lightning.models.self_supervision import SelfSupervisionConfig, SelfSupervisionMethod, build_branch
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig
from tests.distributed.step import BATCH, TEXTS, build_model, share, whole_batch

STEPS = 2
LANGUAGES = {"mixed": [0] * 5 + [1] * 2 + [0, 1] * 4 + [1], "ko": [0] * BATCH}
"""By variant: rank 0 of four has Korean alone where they are mixed."""
VARIANTS = ("mae", "mixed", "ko", "simclr")


def pairs(variant: str) -> ImageTextBatch:
    """The global batch of contrastive training."""
    batch = whole_batch(train_tokenizer(TEXTS, 280, 12), (1, 1))
    views = torch.randint(0, 256, (2, BATCH, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    languages = torch.tensor(LANGUAGES.get(variant, LANGUAGES["mixed"]))
    return replace(batch, languages=languages, views=views if variant == "simclr" else batch.views)


def images(rank: int, world: int) -> ImageBatch:
    """A rank's part of the global batch of MAE pre-training."""
    generator, own = torch.Generator().manual_seed(3), slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    return ImageBatch(
        images=torch.randint(0, 256, (BATCH, 3, 16, 16), dtype=torch.uint8, generator=generator)[own],
        noise=torch.rand(BATCH, 16, generator=generator)[own],
        sample_ids=torch.arange(BATCH)[own],
        sample_seeds=torch.arange(BATCH)[own],
    )


def contrastive_module(variant: str) -> ContrastiveModule:
    """Its model has ordinary weights."""
    tokenizer = train_tokenizer(TEXTS, 280, 12)
    model = build_model(tokenizer)
    config = SelfSupervisionConfig(method=SelfSupervisionMethod.simclr, projection_width=12, projection_dim=6)
    return ContrastiveModule(
        model,
        tokenizer,
        ContrastiveLossConfig(),
        OptimizerConfig(learning_rate=1e-3),
        ScheduleConfig(max_steps=STEPS),
        self_supervision=build_branch(model.image_encoder, config) if variant == "simclr" else None,
    )


def _masked_module() -> MaskedPretrainModule:
    encoder = build_model(train_tokenizer(TEXTS, 280, 12)).image_encoder
    decoder = MaskedAutoencoderConfig(decoder_width=16, decoder_depth=1, decoder_num_heads=2)
    return MaskedPretrainModule(MaskedAutoencoder(encoder, decoder), OptimizerConfig(), ScheduleConfig(max_steps=STEPS))


def logged(variant: str, rank: int = 0, world: int = 1) -> list[dict[str, float]]:
    """What a rank logs at each step of a variant."""
    module: StageModule = _masked_module() if variant == "mae" else contrastive_module(variant)
    batch: Any = images(rank, world) if variant == "mae" else share(pairs(variant), rank, world)
    found: list[dict[str, float]] = []

    class Listen(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            found.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=STEPS,
        log_every_n_steps=1,
        callbacks=[Listen()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([batch] * STEPS, batch_size=None))
    return found


def _work(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    found = {variant: logged(variant, rank, world) for variant in VARIANTS}
    Path(f"{folder}/{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def run(world: int, folder: Path) -> Sequence[dict[str, list[dict[str, float]]]]:
    """By rank and variant, what `world` processes log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_work, (world, port, str(folder)), nprocs=world)
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(world)]
