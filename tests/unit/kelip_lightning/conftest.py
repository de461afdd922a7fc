"""Models small enough for any test, and a small valid experiment of both stages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.models.config import (
    DualEncoderConfig,
    ImageEncoderConfig,
    MaskedAutoencoderConfig,
    TextEncoderConfig,
)
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.models.model_folder import build_dual_encoder

TINY: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2}
BASE = """
name: small
image_encoder: {image_size: 32, patch_size: 16, width: 32, depth: 1, num_heads: 2}
schedule: {max_steps: 4}
data:
  global_batch_size: 8
  sources:
    one: {files: [DATA], captions: {ko: ko}}
"""
MAE = """
extends: base.yaml
transform: {image_size: 32}
masked_autoencoder: {decoder_width: 16, decoder_depth: 1, decoder_num_heads: 2}
"""
CONTRASTIVE = """
extends: base.yaml
transform: {image_size: 32, local_size: 16, num_local_crops: 1}
tokenizer: {vocab_size: 300, context_length: 8}
text_encoder: {width: 32, depth: 1, num_heads: 2}
dual_encoder: {embed_dim: 16}
evaluation:
  retrieval:
    known: {table: {files: [DATA], captions: {ko: ko, en: en}}}
"""
PRETRAIN = """
name: chain
mae: {extends: mae.yaml}
contrastive: {extends: contrastive.yaml}
"""


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


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """Folder with base.yaml, mae.yaml, contrastive.yaml and pretrain.yaml."""
    data = tmp_path / "pairs.parquet"
    data.touch()
    texts = {"base": BASE, "mae": MAE, "contrastive": CONTRASTIVE, "pretrain": PRETRAIN}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)), encoding="utf-8")
    return tmp_path
