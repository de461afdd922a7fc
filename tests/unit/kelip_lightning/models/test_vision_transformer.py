"""timm models by name, and what stands in front of the blocks, against timm."""

from typing import Any

import pytest
import timm
import torch

from kelip_lightning.models.image_encoder import (
    Activation,
    ImageEncoder,
    ImageEncoderConfig,
    Pooling,
    PositionResampling,
)
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from kelip_lightning.models.vision_transformer import add_positions

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


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("patches", [(4, 4), (3, 3), (6, 5)])
@torch.no_grad()
def test_add_positions__equals_timms(name: str, patches: tuple[int, int]) -> None:
    options: dict[str, Any] = {"img_size": 4 * (14 if "14" in name else 16), "depth": 1}
    pooled = "token" if name == KINDS["distillation token"] else ""  # its class insists
    vit = timm.create_model(name, num_classes=0, global_pool=pooled, dynamic_img_size=True, **options).eval()
    if name == KINDS["no positions"]:
        vit.pos_embed = None
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter)
    embedded = torch.randn(2, *patches, vit.embed_dim)
    found = add_positions(vit, embedded, official=False)
    assert found.shape == (2, vit.num_prefix_tokens + patches[0] * patches[1], vit.embed_dim)
    torch.testing.assert_close(found, vit._pos_embed(embedded), rtol=0, atol=2e-6)


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
    assert torch.equal(tokens, encoder.vit.forward_features(images)), "at the stored size nothing is resampled"
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
        ({"position_resampling": PositionResampling.official}, "position_resampling = official"),
        (
            NO_CLASS_TOKEN,
            "has no class token; use pooling=mean",
        ),
    ],
)
def test_timm_name__what_does_not_fit_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageEncoderConfig(**TINY_TIMM | options)
