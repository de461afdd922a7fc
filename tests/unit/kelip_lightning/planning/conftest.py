"""Experiments of any dimensions, built without files, and their real models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from data_modules.config import ImageDataConfig, ImageTextDataConfig
from data_modules.images.config import MaskedImageConfig, MultiCropConfig
from data_modules.sources.config import SourceConfig
from data_modules.text.config import TokenizerConfig
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, TrainerConfig
from kelip_lightning.models.config import (
    DualEncoderConfig,
    ImageEncoderConfig,
    MaskedAutoencoderConfig,
    SelfSupervisionConfig,
    TextEncoderConfig,
)
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderBase, build_masked_autoencoder
from kelip_lightning.models.text_encoder import TextEncoder
from kelip_lightning.optim.config import ScheduleConfig

SOURCES = {"pairs": SourceConfig(files=["absent.parquet"], captions={"ko": "ko"})}

Sections = dict[str, Any]


@pytest.fixture
def contrastive() -> Callable[..., ContrastiveExperiment]:
    """Builds a contrastive experiment; the paper's dimensions and one global crop unless sections say otherwise."""

    def build(
        image: Sections | None = None,
        text: Sections | None = None,
        transform: Sections | None = None,
        trainer: Sections | None = None,
        self_supervision: Sections | None = None,
        embed_dim: int = 512,
        context_length: int = 77,
        vocab_size: int = 98_818,
        global_batch_size: int = 32_768,
    ) -> ContrastiveExperiment:
        encoder = ImageEncoderConfig(**image or {})
        crops: Sections = {"image_size": encoder.image_size, "num_global_crops": 1, "num_local_crops": 0}
        return ContrastiveExperiment(
            name="planned",
            data=ImageTextDataConfig(sources=SOURCES, global_batch_size=global_batch_size),
            transform=MultiCropConfig(**crops | (transform or {})),
            tokenizer=TokenizerConfig(vocab_size=vocab_size, context_length=context_length),
            image_encoder=encoder,
            text_encoder=TextEncoderConfig(**text or {}),
            dual_encoder=DualEncoderConfig(embed_dim=embed_dim),
            self_supervision=SelfSupervisionConfig(**self_supervision or {}),
            schedule=ScheduleConfig(max_steps=100),
            trainer=TrainerConfig(**{"precision": "bf16-mixed"} | (trainer or {})),
        )

    return build


@pytest.fixture
def masked() -> Callable[..., MaskedPretrainExperiment]:
    """Builds MAE pre-training; the paper's encoder and He et al.'s decoder unless sections say otherwise."""

    def build(image: Sections | None = None, decoder: Sections | None = None) -> MaskedPretrainExperiment:
        encoder = ImageEncoderConfig(**image or {})
        return MaskedPretrainExperiment(
            name="planned",
            data=ImageDataConfig(sources=SOURCES),
            transform=MaskedImageConfig(image_size=encoder.image_size),
            image_encoder=encoder,
            masked_autoencoder=MaskedAutoencoderConfig(**decoder or {}),
            schedule=ScheduleConfig(max_steps=100),
            trainer=TrainerConfig(precision="bf16-mixed"),
        )

    return build


@pytest.fixture
def dual_encoder() -> Callable[[ContrastiveExperiment], DualEncoder]:
    """Builds an experiment's real model."""

    def build(stage: ContrastiveExperiment) -> DualEncoder:
        text = TextEncoder(
            stage.text_encoder,
            vocab_size=stage.tokenizer.vocab_size,
            context_length=stage.tokenizer.context_length,
            eot_id=stage.tokenizer.vocab_size - 1,
            pad_id=0,
        )
        return DualEncoder(ImageEncoder(stage.image_encoder), text, stage.dual_encoder)

    return build


@pytest.fixture
def autoencoder() -> Callable[[MaskedPretrainExperiment], MaskedAutoencoderBase]:
    """Builds the MAE stage's real model."""
    return lambda stage: build_masked_autoencoder(ImageEncoder(stage.image_encoder), stage.masked_autoencoder)


@pytest.fixture
def pairs() -> Callable[[ContrastiveExperiment, int], tuple[Tensor, Tensor, Tensor]]:
    """Random crops and full-length captions of a batch, as `DualEncoder.forward` takes them."""

    def build(stage: ContrastiveExperiment, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        transform, tokens = stage.transform, stage.tokenizer
        captions = torch.randint(1, tokens.vocab_size - 1, (batch, tokens.context_length))
        captions[:, -1] = tokens.vocab_size - 1
        return (
            torch.randn(transform.num_global_crops, batch, 3, transform.image_size, transform.image_size),
            torch.randn(transform.num_local_crops, batch, 3, transform.local_size, transform.local_size),
            captions,
        )

    return build
