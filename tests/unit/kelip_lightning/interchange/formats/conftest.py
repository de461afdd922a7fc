"""Models with every weight moved off its initial value, and the captions and images to compare them on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import build_dual_encoder

CAPTIONS = ["빨간 사과", "Green   APPLE", "", "사과 " * 30, "see [EOT] &amp; [PAD]", "漢字 👩🏽‍🚀"]


@dataclass(frozen=True, slots=True)
class Inputs:
    images: Tensor
    """float32 (3, 3, 32, 32)."""
    captions: list[str]


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(images=torch.randn(3, 3, 32, 32), captions=CAPTIONS)


@pytest.fixture(scope="session")
def exported_tokenizer() -> BilingualTokenizer:
    return train_tokenizer(["사과", "빨간 사과", "red apple", "green apple"] * 3, 290, 14)


@pytest.fixture
def moved_model(exported_tokenizer: BilingualTokenizer) -> Callable[..., DualEncoder]:
    """Options: `image`, `text` and `joint`, each a dictionary of settings; the tokenizer."""

    def build(tokenizer: BilingualTokenizer = exported_tokenizer, **sections: dict[str, Any]) -> DualEncoder:
        image: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "num_heads": 1}
        text: dict[str, Any] = {"width": 24, "depth": 3, "num_heads": 4}
        joint: dict[str, Any] = {"embed_dim": 8}
        model = build_dual_encoder(
            ImageEncoderConfig(**image | sections.get("image", {})),
            TextEncoderConfig(**text | sections.get("text", {})),
            DualEncoderConfig(**joint | sections.get("joint", {})),
            tokenizer,
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.eval()

    return build
