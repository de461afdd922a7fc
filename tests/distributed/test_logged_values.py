"""Loss, accuracies and other logged metrics are those of the global batch, with any number of processes."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from data_modules.records import ImageBatch, ImageTextBatch
from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning.losses.config import ContrastiveLossConfig
from kelip_lightning.models.config import MaskedAutoencoderConfig, SelfSupervisionConfig, SelfSupervisionMethod
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.models.self_supervision import build_branch
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from tests.distributed.launch import launch
from tests.distributed.step import BATCH, TEXTS, build_model, share, whole_batch
from tests.trainers import quiet_trainer

STEPS = 2
LANGUAGES = {"mixed": [0] * 5 + [1] * 2 + [0, 1] * 4 + [1], "ko": [0] * BATCH}
"""By variant; rank 0 of four has only Korean in `mixed`."""
VARIANTS = ("mae", "mixed", "ko", "simclr")
KEYS = {
    "contrastive/loss",
    "contrastive/loss_global_crops",
    "contrastive/loss_local_crops",
    "contrastive/temperature",
    "contrastive/accuracy_ko",
    "contrastive/accuracy_en",
    "contrastive/padding_share_ko",
    "contrastive/padding_share_en",
    "contrastive/gradient_norm",
    "contrastive/learning_rate",
}


def _pairs(variant: str) -> ImageTextBatch:
    """The global batch of contrastive training."""
    batch = whole_batch(train_tokenizer(TEXTS, 280, 12), (1, 1))
    views = torch.randint(0, 256, (2, BATCH, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    languages = torch.tensor(LANGUAGES.get(variant, LANGUAGES["mixed"]))
    return replace(batch, languages=languages, views=views if variant == "simclr" else batch.views)


def _images(rank: int, world: int) -> ImageBatch:
    """A rank's part of the global batch of MAE pre-training."""
    generator, own = torch.Generator().manual_seed(3), slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    return ImageBatch(
        images=torch.randint(0, 256, (BATCH, 3, 16, 16), dtype=torch.uint8, generator=generator)[own],
        noise=torch.rand(BATCH, 16, generator=generator)[own],
        sample_ids=torch.arange(BATCH)[own],
        sample_seeds=torch.arange(BATCH)[own],
    )


def _contrastive_module(variant: str) -> ContrastiveModule:
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


def _logged(variant: str, rank: int = 0, world: int = 1) -> list[dict[str, float]]:
    """Metrics that a rank logs at each step of a variant."""
    module: StageModule = _masked_module() if variant == "mae" else _contrastive_module(variant)
    batch: Any = _images(rank, world) if variant == "mae" else share(_pairs(variant), rank, world)
    found: list[dict[str, float]] = []

    class Listen(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            found.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    strategy = "ddp" if world > 1 else "auto"
    trainer = quiet_trainer(STEPS, world, strategy=strategy, log_every_n_steps=1, callbacks=[Listen()])
    trainer.fit(module, torch.utils.data.DataLoader([batch] * STEPS, batch_size=None))
    return found


def _work(rank: int, world: int, folder: Path) -> None:
    found = {variant: _logged(variant, rank, world) for variant in VARIANTS}
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def alone() -> dict[str, list[dict[str, float]]]:
    """Metrics of one process by variant."""
    return {variant: _logged(variant) for variant in VARIANTS}


def test_one_process__logs_equal_numpy(alone: dict[str, list[dict[str, float]]]) -> None:
    """Cross-entropies and accuracies of the first step from the features, in NumPy."""
    model, batch = _contrastive_module("mixed").model, _pairs("mixed")
    with torch.no_grad():
        features = model(
            normalize_images(batch.global_crops), normalize_images(batch.local_crops), batch.tokens, batch.sample_seeds
        )
    text, scale = features.text_BE.double().numpy(), features.logit_scale.item()
    losses, correct = [], np.zeros(0)
    for crops in (features.global_VBE, features.local_VBE):
        logits = scale * crops[0].double().numpy() @ text.T
        rows, columns = (logits - np.log(np.exp(logits).sum(axis, keepdims=True)) for axis in (1, 0))
        losses.append(-(np.trace(rows) + np.trace(columns)) / 2 / len(logits))
        correct = correct if len(correct) else logits.argmax(1) == np.arange(len(logits))
    first, languages = alone["mixed"][0], np.array(LANGUAGES["mixed"])
    assert first.keys() == KEYS
    assert first["contrastive/loss_global_crops"] == pytest.approx(losses[0], rel=1e-5)
    assert first["contrastive/loss_local_crops"] == pytest.approx(losses[1], rel=1e-5)
    assert first["contrastive/loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert first["contrastive/temperature"] == pytest.approx(1 / scale, rel=1e-6)
    for index, language in enumerate(("ko", "en")):
        assert first[f"contrastive/accuracy_{language}"] == pytest.approx(correct[languages == index].mean())


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes__log_what_one_does(
    alone: dict[str, list[dict[str, float]]], tmp_path: Path, world: int
) -> None:
    launch(_work, world, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(world)]
    for variant, steps in alone.items():
        for step, expected in enumerate(steps):
            for rank, found in enumerate(ranks):
                where = f"{variant}, step {step}, rank {rank} of {world}"
                assert found[variant][step] == pytest.approx(expected, rel=1e-4, nan_ok=True), where
    simclr = {"contrastive/loss_contrastive", "contrastive/loss_self_supervised", "contrastive/self_supervised_share"}
    assert ranks[0]["simclr"][0].keys() == KEYS | simclr


def test_accuracy__is_nan_without_a_pair_in_the_global_batch_alone(alone: dict[str, list[dict[str, float]]]) -> None:
    """Rank 0 of four has no English pair in `mixed` either; there the metric is the others'."""
    assert math.isnan(alone["ko"][0]["contrastive/accuracy_en"])
    assert not math.isnan(alone["mixed"][0]["contrastive/accuracy_en"])
    assert set(LANGUAGES["mixed"][:4]) == {0}
