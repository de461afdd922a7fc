"""Models small enough for any test."""

from collections.abc import Callable
from typing import Any

import pytest

from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.models.dual_encoder import DualEncoder, DualEncoderConfig
from kelip_lightning.models.dual_encoder_file import build_dual_encoder
from kelip_lightning.models.image_encoder import ImageEncoder, ImageEncoderConfig
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from kelip_lightning.models.text_encoder import TextEncoderConfig

TINY: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2}


@pytest.fixture
def tiny_image_config() -> Callable[..., ImageEncoderConfig]:
    return lambda **options: ImageEncoderConfig(**TINY | options)


@pytest.fixture
def tiny_autoencoder() -> Callable[..., MaskedAutoencoder]:
    def build(**options: Any) -> MaskedAutoencoder:
        decoder: dict[str, Any] = {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2}
        return MaskedAutoencoder(ImageEncoder(ImageEncoderConfig(**TINY)), MaskedAutoencoderConfig(**decoder | options))

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer() -> BilingualTokenizer:
    return train_tokenizer(["사과", "빨간 사과", "red apple", "green apple"] * 3, 280, 12)


@pytest.fixture
def tiny_dual_encoder(tiny_tokenizer: BilingualTokenizer) -> Callable[..., DualEncoder]:
    def build(image: dict[str, Any] | None = None, **joint: Any) -> DualEncoder:
        return build_dual_encoder(
            ImageEncoderConfig(**TINY | (image or {})),
            TextEncoderConfig(width=16, depth=2, num_heads=2),
            DualEncoderConfig(**{"embed_dim": 8} | joint),
            tiny_tokenizer,
        )

    return build
