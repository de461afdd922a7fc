"""The shared image encoder against timm's own forward pass."""

from collections.abc import Callable

import pytest
import torch
from timm.models import create_model
from torch import Tensor

from kelip_lightning.models.config import Activation, ImageEncoderConfig, Pooling
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.sample_noise import PATCHES, uniform

TinyConfig = Callable[..., ImageEncoderConfig]


def _images(size: int = 32, batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, size, size)


def _all_patches(batch: int, size: int, patch_size: int = 8) -> Tensor:
    return torch.arange((size // patch_size) ** 2).expand(batch, -1)


def _encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """With every weight moved off its initial value, so that no zero hides a mistake."""
    encoder = ImageEncoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("size", [32, 16, 48])
def test_tokens__equal_timm_when_all_patches_are_kept(tiny_image_config: TinyConfig, size: int, pre_norm: bool) -> None:
    encoder = _encoder(tiny_image_config(pre_norm=pre_norm))
    images = _images(size)
    expected = encoder.vit.forward_features(images)
    assert expected.shape == (3, 1 + (size // 8) ** 2, 16)
    tokens = encoder.tokens(images)
    assert torch.equal(encoder.tokens(images, _all_patches(3, size)), tokens)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=5e-6)


def test_tokens__gradients_equal_timm_when_all_patches_are_kept(tiny_image_config: TinyConfig) -> None:
    encoder = _encoder(tiny_image_config())
    images, weights = _images(), torch.randn(3, 17, 16)
    gradients = []
    for tokens in (encoder.tokens(images, _all_patches(3, 32)), encoder.vit.forward_features(images)):
        encoder.zero_grad()
        (tokens * weights).sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(encoder.parameters()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_tokens__permuted_keep_permutes_the_tokens(tiny_image_config: TinyConfig) -> None:
    encoder, images = _encoder(tiny_image_config()), _images()
    order = torch.stack([torch.randperm(16) for _ in range(3)])
    tokens = encoder.tokens(images)
    expected = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, order.unsqueeze(-1).expand(-1, -1, 16))], dim=1)
    torch.testing.assert_close(encoder.tokens(images, order), expected)


def test_tokens__see_the_kept_patches_only(tiny_image_config: TinyConfig) -> None:
    encoder, images = _encoder(tiny_image_config()), _images()
    keep = torch.tensor([[0, 5], [2, 15], [7, 8]])
    tokens = encoder.tokens(images, keep)
    assert tokens.shape == (3, 3, 16)
    hidden = torch.ones(3, 16).scatter(1, keep, 0.0).view(3, 1, 4, 4)
    changed = images + 7 * hidden.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    assert torch.equal(encoder.tokens(changed, keep), tokens)
    assert not torch.allclose(encoder.tokens(images + 1, keep), tokens)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_forward__pools_the_normalised_tokens(tiny_image_config: TinyConfig, pooling: Pooling) -> None:
    encoder, images = _encoder(tiny_image_config(pooling=pooling)), _images()
    tokens = encoder.vit.forward_features(images)
    expected = tokens[:, 0] if pooling is Pooling.cls else tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(encoder(images), expected)


def test_forward__drops_patches_of_whole_crops_when_given_seeds(tiny_image_config: TinyConfig) -> None:
    encoder, images, seeds = _encoder(tiny_image_config(patch_drop_rate=0.5)), _images(), torch.tensor([5, 6, 7])
    lengths: list[int] = []
    encoder.vit.norm_pre.register_forward_hook(lambda _module, _inputs, tokens: lengths.append(tokens.shape[1]))
    encoder(images, seeds)
    encoder(images)
    encoder(_images(16), seeds)
    assert lengths == [9, 17, 5], "half of them; without seeds all; of a local crop all"


def test_forward__drops_the_patches_with_the_highest_noise(tiny_image_config: TinyConfig) -> None:
    encoder, images, seeds = _encoder(tiny_image_config(patch_drop_rate=0.75)), _images(), torch.tensor([5, 6, 7])
    keep = uniform(seeds, PATCHES, [16]).argsort(dim=1)[:, :4].sort(dim=1).values
    torch.testing.assert_close(encoder(images, seeds), encoder.tokens(images, keep)[:, 0])


def test_forward__dropout_follows_the_sample_not_its_place(tiny_image_config: TinyConfig) -> None:
    config = tiny_image_config(drop_path_rate=0.4, dropout_rate=0.3, patch_drop_rate=0.5)
    encoder, images, seeds = _encoder(config), _images(batch=8), torch.arange(8)
    whole = encoder(images, seeds)
    torch.testing.assert_close(encoder(images[5:], seeds[5:]), whole[5:])
    assert not torch.allclose(encoder(images, seeds + 1), whole)
    assert torch.equal(encoder(images), encoder.train()(images)), "no noise without seeds, in either mode"


def test_forward__stochastic_depth_leaves_the_kept_branches_scaled(tiny_image_config: TinyConfig) -> None:
    """Two blocks: the first is never dropped, the second has the whole rate; computed from its parts."""
    encoder, images, seeds = _encoder(tiny_image_config(drop_path_rate=0.5)), _images(batch=16), torch.arange(16)
    first, second = encoder.vit.blocks
    vit = encoder.vit
    tokens = first(vit.norm_pre(vit._pos_embed(vit.patch_embed(images))))
    for stream, branch in ((6, lambda x: second.attn(second.norm1(x))), (8, lambda x: second.mlp(second.norm2(x)))):
        kept = uniform(seeds, stream) >= 0.5
        assert 0 < kept.sum() < 16
        tokens = tokens + branch(tokens) * 2.0 * kept.view(-1, 1, 1)
    torch.testing.assert_close(encoder.tokens(images, seeds_B=seeds), vit.norm(tokens))


def test_gradient_checkpointing__changes_no_gradient(tiny_image_config: TinyConfig) -> None:
    encoder = _encoder(tiny_image_config(drop_path_rate=0.4, dropout_rate=0.3, patch_drop_rate=0.5))
    views = [(_images(), torch.arange(3)), (_images(16), torch.arange(3, 6))]
    gradients = []
    for encoder.gradient_checkpointing in (False, True):
        encoder.zero_grad()
        torch.cat([encoder(images, seeds) for images, seeds in views]).square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_positions__start_as_a_grid_and_the_class_token_at_none(tiny_image_config: TinyConfig) -> None:
    positions = ImageEncoder(tiny_image_config()).vit.pos_embed
    assert positions is not None
    assert (positions[:, 0] == 0).all()
    grid = positions[0, 1:].detach()
    assert grid.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-5)
    distances = torch.cdist(grid, grid)
    assert distances[0, 1] < distances[0, 3]
    assert distances[0, 4] < distances[0, 12]
    assert distances[0, 1] == pytest.approx(distances[0, 4].item(), rel=1e-5), "rows and columns alike"


def test_parameters__defaults_are_clips_vit_b32() -> None:
    width, hidden = 768, 4 * 768
    block = 4 * width * width + 4 * width + 2 * width * hidden + hidden + width + 4 * width
    expected = 12 * block + 3 * 32 * 32 * width + (1 + 49 + 1) * width + 4 * width
    with torch.device("meta"):
        reference = create_model("vit_base_patch32_clip_224", num_classes=0)
    assert sum(p.numel() for p in reference.parameters()) == expected
    ours = {name: p.shape for name, p in ImageEncoder(ImageEncoderConfig()).vit.named_parameters()}
    assert ours == {name: p.shape for name, p in reference.named_parameters()}


@pytest.mark.parametrize("activation", list(Activation))
def test_activation__is_the_configured_one(tiny_image_config: TinyConfig, activation: Activation) -> None:
    encoder = ImageEncoder(tiny_image_config(activation=activation))
    x = torch.linspace(-3, 3, 7)
    expected = torch.nn.functional.gelu(x) if activation is Activation.gelu else x * torch.sigmoid(1.702 * x)
    torch.testing.assert_close(encoder.vit.blocks[0].mlp.act(x), expected)
