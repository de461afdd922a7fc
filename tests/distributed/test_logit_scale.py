"""The bound on the logit scale holds on two processes under every strategy, and the scale can decrease again."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning.losses.config import ContrastiveLossConfig
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder, PairFeatures
from kelip_lightning.models.model_folder import build_dual_encoder
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from tests.distributed.launch import launch
from tests.distributed.step import TEXTS, sharding_strategy, share, whole_batch
from tests.trainers import quiet_trainer

MAX_SCALE = 20.0
OUTWARDS, STEPS = 4, 8
SOME = (("deepspeed_stage_2", "bf16-mixed"), ("deepspeed_stage_3", "32-true"))
OTHERS = (
    ("ddp", "32-true"),
    ("ddp", "bf16-true"),
    ("deepspeed_stage_1", "32-true"),
    ("deepspeed_stage_3", "bf16-mixed"),
)


class _PushedModule(ContrastiveModule):
    """With an additional loss that raises the scale for OUTWARDS steps and lowers it afterwards."""

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
        """The scale of each step."""
        self.masters: list[float] = []
        """The optimizer's float32 parameter after each step."""

    def _features(self, batch: ImageTextBatch, on_crops: Callable[[Tensor], None] | None) -> PairFeatures:
        features = super()._features(batch, on_crops)
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


def _push(strategy: str, precision: Any, rank: int, world: int) -> _PushedModule:
    """This rank's module after STEPS steps."""
    module = _PushedModule()
    batch = share(whole_batch(module.tokenizer, (1, 0)), rank, world)
    trainer = quiet_trainer(STEPS, world, strategy=sharding_strategy(strategy, world), precision=precision)
    trainer.fit(module, torch.utils.data.DataLoader([batch] * STEPS, batch_size=None))
    return module


def _work(rank: int, world: int, folder: Path, ways: Sequence[tuple[str, str]]) -> None:
    for strategy, precision in ways:
        module = _push(strategy, precision, rank, world)
        torch.save((module.used, module.masters), folder / f"{strategy}-{precision}-{rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("ways", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_two_processes__the_scale_stops_at_its_bound_and_comes_back(
    ways: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    launch(_work, 2, tmp_path, ways)
    bound = math.log(MAX_SCALE)
    for strategy, precision in ways:
        way = f"{strategy}-{precision}"
        (used, masters), other = (torch.load(tmp_path / f"{way}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert (used, masters) == other, f"{way}: ranks differ"
        # bfloat16 has 8 bits. DeepSpeed's forward pass uses the rounded float32 value.
        rounded = 2**-8 * bound
        exact = strategy.startswith("deepspeed") or precision == "32-true"
        assert max(used) <= MAX_SCALE * math.exp(rounded if "bf16-mixed" in way else 1e-6), way
        assert max(masters) <= bound, way
        assert masters[OUTWARDS - 1] == pytest.approx(bound, abs=1e-6 if exact else rounded), way
        assert all(after < before for before, after in itertools.pairwise(masters[OUTWARDS - 1 :])), way
