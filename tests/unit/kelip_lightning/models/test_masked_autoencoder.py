"""The masked autoencoder: what it sees, what it predicts, where gradients go."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kelip_lightning.losses.reconstruction import masked_mse
from kelip_lightning.models.image_encoder import ImageEncoder, ImageEncoderConfig
from kelip_lightning.models.masked_autoencoder import (
    MaskedAutoencoder,
    MaskedAutoencoderConfig,
    MaskedAutoencoderVariant,
)
from kelip_lightning.models.official_autoencoder import build_masked_autoencoder
from kelip_lightning.models.patches import patchify, unpatchify

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


def test_learns__a_few_steps_lower_the_loss(tiny_autoencoder: TinyAutoencoder) -> None:
    model = tiny_autoencoder(mask_ratio=0.5)
    images, noise = _inputs(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        reconstruction = model(images, noise)
        loss = masked_mse(reconstruction.prediction_BNP, patchify(images, 8), reconstruction.mask_BN)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.0}, r"mask_ratio = 0.0 must be in \(0, 1\)"),
        ({"mask_ratio": 1.0}, "mask_ratio = 1.0"),
        ({"decoder_width": 18, "decoder_num_heads": 2}, "decoder_width = 18 must be a multiple"),
        ({"decoder_num_heads": 3}, "3 and of 4"),
    ],
)
def test_masked_autoencoder_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedAutoencoderConfig(**options)
