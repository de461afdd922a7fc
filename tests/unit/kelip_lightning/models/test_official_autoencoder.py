"""The official repository's masked autoencoder against its description, written out with torch's plain attention."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kelip_lightning.models.image_encoder import ImageEncoder, ImageEncoderConfig
from kelip_lightning.models.masked_autoencoder import (
    MaskedAutoencoder,
    MaskedAutoencoderConfig,
    MaskedAutoencoderVariant,
)
from kelip_lightning.models.official_autoencoder import OfficialMaskedAutoencoder, build_masked_autoencoder
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD

TinyConfig = Callable[..., ImageEncoderConfig]
DECODER: dict[str, Any] = {
    "variant": MaskedAutoencoderVariant.official,
    "norm_pix_loss": False,
    "mask_ratio": 0.5,
    "decoder_width": 12,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}


@pytest.fixture
def model(tiny_image_config: TinyConfig) -> OfficialMaskedAutoencoder:
    built = build_masked_autoencoder(ImageEncoder(tiny_image_config()), MaskedAutoencoderConfig(**DECODER))
    assert isinstance(built, OfficialMaskedAutoencoder)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built.eval()


def _block(x: Tensor, heads: int, mask: Tensor | None, weights: dict[str, Tensor]) -> Tensor:
    """A pre-norm block with QuickGELU, the same names for both networks."""
    batch, length, width = x.shape
    normed = F.layer_norm(x, (width,), weights["norm1.weight"], weights["norm1.bias"])
    qkv = F.linear(normed, weights["qkv.weight"], weights["qkv.bias"]).view(batch, length, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5
    scores = scores if mask is None else scores + mask
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, length, width)
    x = x + F.linear(mixed, weights["proj.weight"], weights["proj.bias"])
    normed = F.layer_norm(x, (width,), weights["norm2.weight"], weights["norm2.bias"])
    hidden = F.linear(normed, weights["fc1.weight"], weights["fc1.bias"])
    return x + F.linear(hidden * torch.sigmoid(1.702 * hidden), weights["fc2.weight"], weights["fc2.bias"])


def _named(module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    state = module.state_dict()
    return {f"{name}.{kind}": state[theirs + kind] for name, theirs in names.items() for kind in ("weight", "bias")}


IN_TIMM = {
    "norm1": "norm1.", "qkv": "attn.qkv.", "proj": "attn.proj.", "norm2": "norm2.", "fc1": "mlp.fc1.",
    "fc2": "mlp.fc2.",
}  # fmt: skip
IN_TORCH = {
    "norm1": "norm1.", "qkv": "self_attn.in_proj_", "proj": "self_attn.out_proj.", "norm2": "norm2.", "fc1": "linear1.",
    "fc2": "linear2.",
}  # fmt: skip


@torch.no_grad()
def test_forward__equals_the_description(model: OfficialMaskedAutoencoder) -> None:
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    vit = model.encoder.vit
    assert vit.pos_embed is not None
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    for row, values in zip(hidden, noise, strict=True):
        row[values.argsort()[8:]] = True
    patches = F.conv2d(images, vit.patch_embed.proj.weight, stride=8).flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:]
    x = patches[~hidden].view(2, 8, 16)
    x = F.layer_norm(x, (16,), vit.norm_pre.weight, vit.norm_pre.bias)
    for block in vit.blocks:
        x = _block(x, 2, None, _named(block, IN_TIMM))
    x = F.layer_norm(x, (16,), vit.norm.weight, vit.norm.bias) @ model.projection.weight.T
    whole = torch.empty(2, 16, 12)
    whole[hidden], whole[~hidden] = model.mask_token, x.reshape(-1, 12)
    x = whole + model.decoder_positions
    causal = torch.full((16, 16), float("-inf")).triu(1)
    for layer in model.decoder_blocks.layers:
        x = _block(x, 2, causal, _named(layer, IN_TORCH))
    x = F.layer_norm(x, (12,), model.decoder_norm.weight, model.decoder_norm.bias)
    x = torch.tanh(F.linear(x, model.decoder_pixels.weight, model.decoder_pixels.bias))
    expected = ((x.view(2, 16, 64, 3) + 1) / 2 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    output = model(images, noise)
    torch.testing.assert_close(output.prediction_BNP, expected.reshape(2, 16, 192), atol=2e-5, rtol=1e-4)
    assert torch.equal(output.mask_BN.bool(), hidden)


def test_forward__gradient_reaches_decoder_and_encoder_but_not_the_class_token(
    model: OfficialMaskedAutoencoder,
) -> None:
    model(torch.randn(2, 3, 32, 32), torch.rand(2, 16)).prediction_BNP.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == [], "DDP waits for every gradient"
    class_token, positions = gradients["encoder.vit.cls_token"], gradients["encoder.vit.pos_embed"]
    assert class_token is not None and (class_token == 0).all()
    assert positions is not None and (positions[:, 0] == 0).all() and (positions[:, 1:] != 0).any()


def test_initial_statistics__are_the_official_ones() -> None:
    sizes = ImageEncoderConfig(image_size=32, patch_size=8, width=64, depth=1, num_heads=2)
    config = MaskedAutoencoderConfig(**DECODER | {"decoder_width": 128, "decoder_depth": 3})
    state = OfficialMaskedAutoencoder(ImageEncoder(sizes), config).state_dict()
    expected = {
        "mask_token": 0.02,
        "decoder_positions": 0.01,
        "projection.weight": 64**-0.5,
        "decoder_pixels.weight": 128**-0.5,
        "decoder_blocks.layers.2.self_attn.in_proj_weight": 128**-0.5,
        "decoder_blocks.layers.2.self_attn.out_proj.weight": 128**-0.5 * 6**-0.5,
        "decoder_blocks.layers.2.linear1.weight": 256**-0.5,
        "decoder_blocks.layers.2.linear2.weight": 128**-0.5 * 6**-0.5,
    }
    assert {name: state[name].std().item() for name in expected} == pytest.approx(expected, rel=0.2)


def test_config__default_is_he_and_the_official_one_predicts_pixels(tiny_image_config: TinyConfig) -> None:
    default = build_masked_autoencoder(ImageEncoder(tiny_image_config()), MaskedAutoencoderConfig())
    assert isinstance(default, MaskedAutoencoder)
    with pytest.raises(ValueError, match="norm_pix_loss = true cannot be met by variant = official"):
        MaskedAutoencoderConfig(variant=MaskedAutoencoderVariant.official)
