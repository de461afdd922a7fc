"""The masked autoencoders: what they see, what they predict, where gradients go."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kelip_lightning.losses.self_supervised import masked_mse
from kelip_lightning.models.config import ImageEncoderConfig, MaskedAutoencoderConfig, MaskedAutoencoderVariant
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import (
    MaskedAutoencoder,
    OfficialMaskedAutoencoder,
    build_masked_autoencoder,
)
from kelip_lightning.models.patches import patchify, unpatchify
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD

TinyAutoencoder = Callable[..., MaskedAutoencoder]


def _inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, 32, 32), torch.rand(batch, 16)


def test_forward__shapes_and_mask(tiny_autoencoder: TinyAutoencoder) -> None:
    images, noise = _inputs()
    reconstruction = tiny_autoencoder()(images, noise)
    assert reconstruction.prediction_BNP.shape == (3, 16, 192)
    assert reconstruction.prediction_BNP.dtype == torch.float32
    for mask, values in zip(reconstruction.mask_BN, noise, strict=True):
        assert set(mask.eq(0).nonzero().flatten().tolist()) == set(values.argsort()[:4].tolist())


def test_forward__never_sees_masked_pixels(tiny_autoencoder: TinyAutoencoder) -> None:
    model = tiny_autoencoder().eval()
    images, noise = _inputs()
    before = model(images, noise)
    patches = patchify(images, 8)
    hidden = before.mask_BN.bool().unsqueeze(-1)
    masked_changed = unpatchify(torch.where(hidden, torch.randn_like(patches), patches), 8)
    assert torch.equal(model(masked_changed, noise).prediction_BNP, before.prediction_BNP)
    visible_changed = unpatchify(torch.where(hidden, patches, torch.randn_like(patches)), 8)
    assert not torch.allclose(model(visible_changed, noise).prediction_BNP, before.prediction_BNP)


def test_forward__images_do_not_mix(tiny_autoencoder: TinyAutoencoder) -> None:
    model = tiny_autoencoder().eval()
    images, noise = _inputs()
    together = model(images, noise).prediction_BNP
    torch.testing.assert_close(model(images[1:2], noise[1:2]).prediction_BNP, together[1:2])


def test_forward__equals_he_et_al_restore_by_argsort(tiny_autoencoder: TinyAutoencoder) -> None:
    """The paper's order: shuffle by noise, append mask tokens, unshuffle; written out for one image."""
    model = tiny_autoencoder().eval()
    images, noise = _inputs(1)
    order = noise.argsort(dim=1)
    latent = model.decoder_embed(model.encoder.tokens(images, order[:, :4]))
    shuffled = torch.cat([latent[:, 1:], model.mask_token.expand(1, 12, -1)], dim=1)
    restored = shuffled[:, order.argsort(dim=1)[0]] + model.decoder_positions
    decoded = model.decoder_blocks(torch.cat([latent[:, :1], restored], dim=1))
    expected = model.decoder_pixels(model.decoder_norm(decoded[:, 1:]))
    torch.testing.assert_close(model(images, noise).prediction_BNP, expected)


def test_forward__gradients_reach_encoder_mask_token_and_decoder(tiny_autoencoder: TinyAutoencoder) -> None:
    model = tiny_autoencoder()
    images, noise = _inputs()
    reconstruction = model(images, noise)
    masked_mse(reconstruction.prediction_BNP, patchify(images, 8), reconstruction.mask_BN).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_forward__patch_drop_of_the_encoder_plays_no_part(tiny_autoencoder: TinyAutoencoder) -> None:
    model = tiny_autoencoder().train()
    images, noise = _inputs()
    assert torch.equal(model(images, noise).prediction_BNP, model(images, noise).prediction_BNP)


def test_decoder_positions__are_fixed_and_not_stored(tiny_autoencoder: TinyAutoencoder) -> None:
    model = tiny_autoencoder()
    assert model.decoder_positions.shape == (1, 16, 16)
    assert not model.decoder_positions.requires_grad
    assert "decoder_positions" not in model.state_dict()
    assert len({tuple(row.tolist()) for row in model.decoder_positions[0]}) == 16


@pytest.mark.parametrize("variant", list(MaskedAutoencoderVariant))
def test_gradient_checkpointing__changes_no_gradient_and_runs_every_block_twice(
    variant: MaskedAutoencoderVariant, tiny_image_config: Callable[..., ImageEncoderConfig]
) -> None:
    sizes = {"decoder_width": 12, "decoder_depth": 2, "decoder_num_heads": 2}
    encoder = ImageEncoder(tiny_image_config(drop_path_rate=0.4, dropout_rate=0.3))
    model = build_masked_autoencoder(encoder, MaskedAutoencoderConfig(variant=variant, norm_pix_loss=False, **sizes))
    (images, noise), seeds, runs = _inputs(), torch.arange(3), [0]
    blocks = [module for name, module in model.named_modules() if re.search(r"(blocks|layers)\.\d+$", name)]
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: runs.append(runs.pop() + 1))
    gradients, counts = [], []
    for encoder.gradient_checkpointing in (False, True):
        model.zero_grad()
        runs[0] = 0
        model(images, noise, seeds).prediction_BNP.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        counts.append(runs[0])
    assert counts[1] == 2 * counts[0]
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


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
    with pytest.raises(ValueError, match="norm_pix_loss = true does not fit variant = official"):
        MaskedAutoencoderConfig(variant=MaskedAutoencoderVariant.official)
