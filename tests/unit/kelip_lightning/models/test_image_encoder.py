"""The shared image encoder against timm's own forward pass."""

from collections.abc import Callable

import pytest
import torch
from timm.models import create_model
from torch import Tensor

from kelip_lightning.models.config import Activation, ImageEncoderConfig, Pooling, PositionResampling
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.preprocessing import normalize_images
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


@pytest.mark.parametrize("resampling", list(PositionResampling))
@pytest.mark.parametrize("size", [32, 48])
def test_embed__kept_patches_are_those_of_all(
    tiny_image_config: TinyConfig, size: int, resampling: PositionResampling
) -> None:
    """Values and gradients: what is dropped before the embedding or behind it."""
    encoder, images = _encoder(tiny_image_config(position_resampling=resampling)), _images(size)
    keep = torch.stack([torch.randperm((size // 8) ** 2)[:6].sort().values for _ in range(3)])
    places = torch.cat([torch.zeros(3, 1, dtype=torch.int64), 1 + keep], dim=1)
    found, every = encoder.embed(images, keep), encoder.embed(images)
    expected = every[torch.arange(3).unsqueeze(1), places]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    vit = encoder.vit
    leaves = [*vit.patch_embed.parameters(), *(one for one in (vit.pos_embed, vit.cls_token) if one is not None)]
    upstream = torch.randn_like(found)
    pairs = [torch.autograd.grad(one, leaves, upstream) for one in (found, expected)]
    for one, other in zip(*pairs, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("keep", [None, [[0, 5], [2, 3], [1, 2]]])
def test_tokens__of_uint8_pixels_are_those_of_standardised_images(
    tiny_image_config: TinyConfig, size: int, keep: list[list[int]] | None
) -> None:
    encoder = _encoder(tiny_image_config())
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    keep_BK = None if keep is None else torch.tensor(keep) % (size // 8) ** 2
    values = [encoder.tokens(images, keep_BK) for images in (pixels, normalize_images(pixels))]
    upstream = torch.randn_like(values[0])
    gradients = [torch.autograd.grad(one, list(encoder.parameters()), upstream) for one in values]
    for one, other in [tuple(values), *zip(*gradients, strict=True)]:
        assert (one - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("size", [(30, 32), (32, 36)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tokens__sides_that_are_no_multiples_of_the_patch(
    tiny_image_config: TinyConfig, size: tuple[int, int], dtype: torch.dtype
) -> None:
    message = f"the sides of images, {size[0]} x {size[1]}, must be multiples of patch_size = 8"
    with pytest.raises(ValueError, match=message):
        ImageEncoder(tiny_image_config()).tokens(torch.zeros(2, 3, *size, dtype=dtype))


def test_tokens__of_an_image_that_is_no_square(tiny_image_config: TinyConfig) -> None:
    encoder, images = _encoder(tiny_image_config()), torch.randn(2, 3, 24, 48)
    torch.testing.assert_close(encoder.tokens(images), encoder.vit.forward_features(images), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tokens__are_bfloat16_under_autocast(tiny_image_config: TinyConfig, dtype: torch.dtype) -> None:
    encoder = _encoder(tiny_image_config(drop_path_rate=0.3, dropout_rate=0.1))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    images = images if dtype is torch.uint8 else normalize_images(images)
    kinds: set[torch.dtype] = set()
    for layer in (encoder.vit.norm_pre, encoder.vit.blocks[0].attn.qkv, encoder.vit.blocks[1].mlp.fc2):
        layer.register_forward_hook(lambda _module, inputs, output: kinds.update({inputs[0].dtype, output.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder.embed(images), encoder.tokens(images, seeds_B=torch.arange(3)), encoder.tokens(images)
    assert {one.dtype for one in found} == kinds == {torch.bfloat16}
    exact = encoder.tokens(images)
    assert (found[2] - exact).norm() < 2**-5 * exact.norm()


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
