"""timm models by name, and position embeddings against timm, torch's interpolation and the formula in NumPy."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from kelip_lightning.models.config import (
    Activation,
    ImageEncoderConfig,
    MaskedAutoencoderConfig,
    Pooling,
    PositionResampling,
)
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.models.patches import patchify
from kelip_lightning.models.vision_transformer import (
    Grid,
    PatchProjection,
    add_positions,
    embed_patches,
    resample_positions,
    timm_vision_transformer,
)

TINY_TIMM: dict[str, Any] = {
    "timm_name": "vit_tiny_patch16_224",
    "image_size": 64,
    "patch_size": 16,
    "width": 192,
    "num_heads": 3,
    "activation": Activation.gelu,
    "pre_norm": False,
}


def test_official_resampling__same_features_at_the_stored_size(tiny_image_config: Any) -> None:
    encoders = [ImageEncoder(tiny_image_config(position_resampling=one)).eval() for one in PositionResampling]
    encoders[1].load_state_dict(encoders[0].state_dict(), strict=True)
    images, larger = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(encoders[0](images), encoders[1](images))
    assert (encoders[0](larger) - encoders[1](larger)).abs().max() > 1e-4


@torch.no_grad()
def test_timm_name__computes_what_timm_computes() -> None:
    encoder = ImageEncoder(ImageEncoderConfig(**TINY_TIMM)).eval()
    reference = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, global_pool="token").eval()
    reference.load_state_dict(encoder.vit.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images), reference(images))
    assert encoder(torch.randn(1, 3, 96, 96)).shape == (1, 192)


KINDS = {
    "one class token": "vit_tiny_patch16_224",
    "distillation token": "deit_tiny_distilled_patch16_224",
    "no position of the class token": "deit3_small_patch16_224",
    "registers beside the class token": "vit_small_patch14_reg4_dinov2",
    "registers alone": "test_vit3",
    "no positions": "vit_base_patch16_clip_quickgelu_224",
}


def _with_large_weights(name: str) -> Any:
    options: dict[str, Any] = {"img_size": 4 * (14 if "14" in name else 16), "depth": 1}
    pooled = "token" if name == KINDS["distillation token"] else ""  # its class insists
    vit = timm.create_model(name, num_classes=0, global_pool=pooled, dynamic_img_size=True, **options).eval()
    if name == KINDS["no positions"]:
        vit.pos_embed = None
    for parameter in vit.parameters():
        nn.init.normal_(parameter)
    return vit


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("patches", [(4, 4), (3, 3), (6, 5)])
@torch.no_grad()
def test_add_positions__equals_timms(name: str, patches: tuple[int, int]) -> None:
    vit = _with_large_weights(name)
    embedded = torch.randn(2, *patches, vit.embed_dim)
    found = add_positions(vit, embedded.flatten(1, 2), patches, official=False)
    assert found.shape == (2, vit.num_prefix_tokens + patches[0] * patches[1], vit.embed_dim)
    torch.testing.assert_close(found, vit._pos_embed(embedded), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("patches", [(4, 4), (3, 5)])
def test_add_positions__of_kept_patches_are_those_of_all(name: str, patches: tuple[int, int]) -> None:
    """Values bit for bit, and the gradients of patches, positions and tokens; every sample keeps others."""
    vit = _with_large_weights(name)
    number = patches[0] * patches[1]
    keep = torch.stack([torch.randperm(number)[:5].sort().values for _ in range(2)])
    places = torch.cat([torch.arange(vit.num_prefix_tokens).expand(2, -1), vit.num_prefix_tokens + keep], dim=1)
    embedded = torch.randn(2, number, vit.embed_dim, requires_grad=True)
    rows = torch.arange(2).unsqueeze(1)
    found = add_positions(vit, embedded[rows, keep], patches, keep, official=False)
    expected = add_positions(vit, embedded, patches, official=False)[rows, places]
    assert torch.equal(found, expected)
    tokens = ("pos_embed", "cls_token", "dist_token", "reg_token")
    leaves = [embedded, *(one for key in tokens if (one := getattr(vit, key, None)) is not None)]
    upstream = torch.randn_like(found)
    pairs = [torch.autograd.grad(one, leaves, upstream) for one in (found, expected)]
    torch.testing.assert_close(pairs[0], pairs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_patch_projection__value_and_gradients_equal_the_convolution(bias: bool) -> None:
    convolution = nn.Conv2d(3, 10, 4, stride=4, bias=bias)
    projection = PatchProjection(convolution)
    assert [id(one) for one in projection.parameters()] == [id(one) for one in convolution.parameters()]
    assert projection.state_dict().keys() == convolution.state_dict().keys()
    images = torch.randn(2, 3, 8, 12, requires_grad=True)
    expected = convolution(images).flatten(2).transpose(1, 2)
    found = projection(patchify(images, 4))
    leaves, upstream = [images, *convolution.parameters()], torch.randn_like(found)
    pairs = [(found, expected)]
    gradients = [torch.autograd.grad(one, leaves, upstream) for one in (found, expected)]
    pairs += zip(*gradients, strict=True)
    for one, other in pairs:
        assert (one - other).norm() <= 1e-5 * other.norm()
    assert torch.equal(projection(images), convolution(images)), "images as they are"


def test_patch_projection__of_some_patches_and_of_bfloat16_weights() -> None:
    convolution = nn.Conv2d(3, 10, 4, stride=4)
    patches = torch.randn(2, 6, 48)
    projection = PatchProjection(convolution)
    torch.testing.assert_close(projection(patches[:, [4, 1]]), projection(patches)[:, [4, 1]])
    exact = projection(patches)
    rounded = PatchProjection(copy.deepcopy(convolution).bfloat16())(patches)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 2**-7 * exact.norm()


def test_patch_projection__a_copy_has_its_own_weights() -> None:
    """BYOL's target is a deep copy."""
    projection = PatchProjection(nn.Conv2d(3, 10, 4, stride=4))
    other = copy.deepcopy(projection)
    before = other(torch.ones(1, 1, 48))
    nn.init.zeros_(projection.weight)
    assert torch.equal(other(torch.ones(1, 1, 48)), before)


@torch.no_grad()
def test_embed_patches__equals_timms_patch_embedding() -> None:
    """With the norm that some models have after it."""
    vit = timm_vision_transformer("vit_tiny_patch16_224", img_size=64, depth=1)
    images = torch.randn(2, 3, 64, 64)
    reference = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=0).eval()
    reference.load_state_dict(vit.state_dict(), strict=True)
    for norm in (nn.Identity(), nn.LayerNorm(192)):
        vit.patch_embed.norm = reference.patch_embed.norm = norm
        found = embed_patches(vit, patchify(images, 16))
        torch.testing.assert_close(found, reference.patch_embed(images), rtol=1e-5, atol=1e-5)


DINO: dict[str, Any] = {"timm_name": "vit_small_patch14_reg4_dinov2", "image_size": 56, "patch_size": 14}
NO_CLASS_TOKEN: dict[str, Any] = {"timm_name": "test_vit3", "width": 96, "depth": 9, "mlp_ratio": 2.0}


@pytest.mark.parametrize(
    ("options", "prefix"),
    [(DINO | {"width": 384, "num_heads": 6}, 5), (NO_CLASS_TOKEN, 1)],
    ids=["class token and four registers", "one register alone"],
)
@torch.no_grad()
def test_timm_name__other_prefixes_than_one_class_token(options: dict[str, Any], prefix: int) -> None:
    encoder = ImageEncoder(ImageEncoderConfig(**TINY_TIMM | options | {"pooling": Pooling.mean})).eval()
    assert encoder.num_prefix_tokens == prefix
    side = encoder.config.image_size
    images = torch.randn(2, 3, side, side)
    tokens = encoder.tokens(images)
    torch.testing.assert_close(tokens, encoder.vit.forward_features(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(images), tokens[:, prefix:].mean(dim=1))
    every = torch.arange(encoder.config.num_patches).expand(2, -1)
    torch.testing.assert_close(encoder.tokens(images, every), tokens)
    decoder = MaskedAutoencoderConfig(decoder_width=16, decoder_depth=1, decoder_num_heads=2)
    reconstruction = MaskedAutoencoder(encoder, decoder)(images, torch.rand(2, encoder.config.num_patches))
    assert reconstruction.prediction_BNP.shape == (2, encoder.config.num_patches, 3 * encoder.config.patch_size**2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timm_name": "vit_tiny_patch16_225"}, "did you mean vit_tiny_patch16_224"),
        ({"timm_name": "resnet50"}, "is no Vision Transformer"),
        ({"timm_name": "vit_tiny_patch16_224.augreg_in21k"}, "give vit_tiny_patch16_224"),
        ({"width": 384, "num_heads": 6}, r"set image_encoder\.width=192 image_encoder\.num_heads=3"),
        ({"activation": Activation.quick_gelu, "pre_norm": True}, r"activation=gelu image_encoder\.pre_norm=false"),
        (NO_CLASS_TOKEN, "has no class token; use pooling=mean"),
    ],
)
def test_timm_name__mismatches(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageEncoder(ImageEncoderConfig(**TINY_TIMM | options))


GRIDS: list[tuple[Grid, Grid]] = [((7, 7), (3, 3)), ((4, 4), (6, 6)), ((16, 16), (37, 37)), ((14, 14), (6, 9))]
Resample = Callable[[Tensor], Tensor]


def _positions(stored: Grid, prefix: int, width: int = 5) -> Tensor:
    return 0.2 * torch.randn(1, prefix + stored[0] * stored[1], width)


def _official(stored: Grid, wanted: Grid) -> Resample:
    """As the official code does, with torch's interpolation."""

    def resample(positions: Tensor) -> Tensor:
        grid = positions[:, 1:].reshape(1, *stored, -1).permute(0, 3, 1, 2)
        factors = tuple((new + 0.1) / old for new, old in zip(wanted, stored, strict=True))
        resampled = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)

    return resample


def _assert_alike(ours: Resample, theirs: Resample, positions: Tensor) -> None:
    """Values, and the gradient of a sum with weights from -0.2 to 0.2; both are of the size of what is resampled."""
    found, gradients = [], []
    for function in (ours, theirs):
        leaf = positions.clone().requires_grad_()
        resampled = function(leaf)
        (resampled * 0.2 * torch.arange(resampled.numel()).view_as(resampled).sin()).sum().backward()
        assert leaf.grad is not None
        found.append(resampled.detach())
        gradients.append(leaf.grad)
    for one, other in (found, gradients):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("stored", "wanted"), GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_resample_positions__value_and_gradient_equal_timms(stored: Grid, wanted: Grid, prefix: int) -> None:
    _assert_alike(
        lambda positions: resample_positions(positions, stored, wanted, num_prefix_tokens=prefix),
        lambda positions: resample_abs_pos_embed(positions, list(wanted), list(stored), num_prefix_tokens=prefix),
        _positions(stored, prefix),
    )


@pytest.mark.parametrize(("stored", "wanted"), GRIDS)
def test_resample_positions__value_and_gradient_equal_the_official_ones(stored: Grid, wanted: Grid) -> None:
    ours: Resample = lambda positions: resample_positions(positions, stored, wanted, official=True)  # noqa: E731
    _assert_alike(ours, _official(stored, wanted), _positions(stored, 1))


def test_resample_positions__same_grid_is_left_alone() -> None:
    positions = _positions((4, 4), 1)
    assert resample_positions(positions, (4, 4), (4, 4)) is positions


def test_resample_positions__computes_in_float32_whatever_the_weights_are() -> None:
    positions = _positions((7, 7), 1).bfloat16()
    expected = resample_abs_pos_embed(positions, [3, 3], [7, 7])
    found = resample_positions(positions, (7, 7), (3, 3))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=0)  # one unit in the last place of 8 bits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = resample_positions(positions.float(), (7, 7), (3, 3))
    torch.testing.assert_close(again, resample_positions(positions.float(), (7, 7), (3, 3)), rtol=0, atol=0)


def test_resample_positions__first_used_in_inference_mode_trains_afterwards() -> None:
    positions = _positions((5, 7), 1).requires_grad_()
    with torch.inference_mode():
        resample_positions(positions, (5, 7), (4, 2))
    resample_positions(positions, (5, 7), (4, 2)).sum().backward()
    assert positions.grad is not None


def test_resample_positions__compiles_to_one_graph_and_its_gradient() -> None:
    compiled = torch.compile(resample_positions, backend="aot_eager", fullgraph=True, dynamic=False)
    for wanted in ((3, 5), (9, 2)):
        _assert_alike(
            lambda positions, wanted=wanted: compiled(positions, (6, 6), wanted),  # type: ignore[misc]
            lambda positions, wanted=wanted: resample_positions(positions, (6, 6), wanted),  # type: ignore[misc]
            _positions((6, 6), 1),
        )
