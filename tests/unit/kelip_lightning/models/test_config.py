"""Settings of the models: values that are refused, and what follows from the others."""

import math
from fractions import Fraction
from typing import Any

import pytest

from kelip_lightning.models.config import (
    DualEncoderConfig,
    ImageEncoderConfig,
    MaskedAutoencoderConfig,
    MaskedAutoencoderVariant,
    PositionResampling,
    SelfSupervisionConfig,
    TextEncoderConfig,
    TextPooling,
    num_kept,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 33}, "image_size = 33 must be a multiple of patch_size = 8"),
        ({"width": 18, "num_heads": 2}, "width = 18 must be a multiple"),
        ({"num_heads": 3}, "num_heads = 3"),
        ({"drop_path_rate": 1.0}, "drop_path_rate = 1.0"),
        ({"patch_drop_rate": -0.1}, "patch_drop_rate = -0.1"),
        (
            {"timm_name": "vit_tiny_patch16_224", "position_resampling": PositionResampling.official},
            "position_resampling = official belongs to KELIP's own encoder",
        ),
    ],
)
def test_image_encoder_config__bad_values(options: dict[str, Any], message: str) -> None:
    sizes = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2}
    with pytest.raises(ValueError, match=message):
        ImageEncoderConfig(**sizes | options)


def test_text_encoder_config__bad_width() -> None:
    with pytest.raises(ValueError, match="width = 10 must be a multiple of num_heads = 3"):
        TextEncoderConfig(width=10, num_heads=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pooling": TextPooling.mean}, "pooling = mean needs hf_model"), ({"hf_weights": True}, "needs hf_model")],
)
def test_text_encoder_config__settings_that_need_a_hugging_face_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoderConfig(**options)


@pytest.mark.parametrize("temperature", [0.0, -0.1, 1.5])
def test_dual_encoder_config__bad_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"initial_temperature = {temperature}"):
        DualEncoderConfig(initial_temperature=temperature)


def test_dual_encoder_config__a_temperature_below_what_the_bound_allows() -> None:
    with pytest.raises(ValueError, match=r"initial_temperature = 0\.005 must be at least 1 / max_logit_scale = 0\.01"):
        DualEncoderConfig(initial_temperature=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.0}, r"mask_ratio = 0.0 must be in \(0, 1\)"),
        ({"mask_ratio": 1.0}, "mask_ratio = 1.0"),
        ({"decoder_width": 18, "decoder_num_heads": 2}, "decoder_width = 18 must be a multiple"),
        ({"decoder_num_heads": 3}, "3 and of 4"),
        ({"variant": MaskedAutoencoderVariant.official}, "norm_pix_loss = true does not fit variant = official"),
    ],
)
def test_masked_autoencoder_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedAutoencoderConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight = 0.0 must be above 0"),
        ({"temperature": -1.0}, "temperature = -1.0 must be above 0"),
        ({"projection_dim": 0}, "projection_dim = 0 must be at least 1"),
        ({"momentum": 1.0}, r"momentum = 1.0 must be in \[0, 1\)"),
    ],
)
def test_self_supervision_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfSupervisionConfig(**options)


@pytest.mark.parametrize("ratio", ["0.1", "0.25", "0.3", "0.5", "0.6", "0.75", "0.9", "0.95"])
@pytest.mark.parametrize("num_patches", [1, 10, 16, 49, 100, 196, 576])
def test_num_kept__as_in_exact_arithmetic(num_patches: int, ratio: str) -> None:
    assert num_kept(num_patches, float(ratio)) == max(1, math.floor(num_patches * (1 - Fraction(ratio))))
