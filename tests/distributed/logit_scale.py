"""A few steps that push the logit scale far over its bound and then back, under any strategy and on any ranks."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning.distributed.strategies import build_strategy
from kelip_lightning.losses.contrastive import ContrastiveLossConfig
from kelip_lightning.models.dual_encoder import DualEncoder, DualEncoderConfig, PairFeatures
from kelip_lightning.models.dual_encoder_file import build_dual_encoder
from kelip_lightning.models.image_encoder import ImageEncoderConfig
from kelip_lightning.models.text_encoder import TextEncoderConfig
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig
from tests.distributed.step import TEXTS, share, whole_batch

MAX_SCALE = 20.0
OUTWARDS, STEPS = 4, 8


class PushedModule(ContrastiveModule):
    """The module as it is, with a loss that pulls the scale up for OUTWARDS steps and down after them."""

    def __init__(self) -> None:
        tokenizer = train_tokenizer(TEXTS, 280, 12)
        torch.manual_seed(0)
        model = build_dual_encoder(
            ImageEncoderConfig(image_size=16, patch_size=8, width=16, depth=1, num_heads=2),
            TextEncoderConfig(width=16, depth=1, num_heads=2),
            DualEncoderConfig(embed_dim=8, max_logit_scale=MAX_SCALE),
            tokenizer,
        )
        optimizer = OptimizerConfig(learning_rate=0.2, beta1=0.0, beta2=0.5)
        super().__init__(model, tokenizer, ContrastiveLossConfig(), optimizer, ScheduleConfig(max_steps=10 * STEPS))
        self.used: list[float] = []
        """The factor on cosines of each step."""
        self.masters: list[float] = []
        """The optimizer's own value of the parameter after each step."""

    def _features(self, batch: ImageTextBatch) -> PairFeatures:
        features = super()._features(batch)
        self._scale = features.logit_scale
        return features

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.used.append(self._scale.item())
        return loss + (-100 if batch_idx < OUTWARDS else 100) * self._scale.sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.masters.append(self._master(self.model))

    def _master(self, model: DualEncoder) -> float:
        if not isinstance(self.trainer.strategy, DeepSpeedStrategy):
            return model.logit_scale.item()
        from deepspeed.utils import safe_get_full_fp32_param

        return float(safe_get_full_fp32_param(model.logit_scale))


def push(strategy: str, precision: Any, rank: int, world: int) -> PushedModule:
    """This rank's module after STEPS steps."""
    module = PushedModule()
    batch = share(whole_batch(module.tokenizer, (1, 0)), rank, world)
    built = build_strategy(strategy, "cpu", num_processes=world, timeout=timedelta(minutes=5))
    if isinstance(built, DeepSpeedStrategy) and built.zero_stage_3:
        assert isinstance(built.config, dict)
        built.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=built,
        precision=precision,
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([batch] * STEPS, batch_size=None))
    return module


def work(rank: int, port: int, folder: str, ways: Sequence[tuple[str, str]]) -> None:
    """One of two processes: ways of (strategy, precision), whose numbers go to STRATEGY-PRECISION-RANK.pt."""
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    for strategy, precision in ways:
        module = push(strategy, precision, rank, 2)
        torch.save((module.used, module.masters), f"{folder}/{strategy}-{precision}-{rank}.pt")
    # DeepSpeed's threads now and then abort an interpreter that shuts down.
    os._exit(0)
