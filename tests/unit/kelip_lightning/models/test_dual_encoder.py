"""The dual encoder: unit features, views in order, the scale."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.text_encoder import TextEncoder

TinyDualEncoder = Callable[..., DualEncoder]


def test_encode__unit_length_or_raw(tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    model = tiny_dual_encoder().eval()
    images, tokens = torch.randn(4, 3, 32, 32), tiny_tokenizer.encode(["사과", "red apple"])
    for encode, inputs in ((model.encode_image, images), (model.encode_text, tokens)):
        features, raw = encode(inputs), encode(inputs, l2norm=False)
        assert features.shape == (len(inputs), 8)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(inputs)))
        assert not torch.allclose(raw.norm(dim=1), torch.ones(len(inputs)), atol=1e-3)
        torch.testing.assert_close(F.normalize(raw, dim=1), features)


def test_encode__projects_the_towers_features(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer
) -> None:
    model = tiny_dual_encoder().eval()
    images, tokens = torch.randn(2, 3, 32, 32), tiny_tokenizer.encode("사과")
    expected = model.image_encoder(images) @ model.image_projection.weight.T
    torch.testing.assert_close(model.encode_image(images, l2norm=False), expected)
    expected = model.text_encoder(tokens) @ model.text_projection.weight.T
    torch.testing.assert_close(model.encode_text(tokens, l2norm=False), expected)


def test_forward__views_in_order(tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    model = tiny_dual_encoder().eval()
    global_crops, local_crops = torch.randn(2, 3, 3, 32, 32), torch.randn(4, 3, 3, 16, 16)
    tokens = tiny_tokenizer.encode(["사과", "red apple", "green"])
    features = model(global_crops, local_crops, tokens)
    assert features.global_VBE.shape == (2, 3, 8)
    assert features.local_VBE.shape == (4, 3, 8)
    for views, encoded in ((global_crops, features.global_VBE), (local_crops, features.local_VBE)):
        for view, expected in zip(views, encoded, strict=True):
            torch.testing.assert_close(expected, model.encode_image(view))
    assert torch.equal(features.text_BE, model.encode_text(tokens))


def test_forward__no_local_crops(tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    tokens = tiny_tokenizer.encode(["사과", "red apple"])
    features = tiny_dual_encoder()(torch.randn(1, 2, 3, 32, 32), torch.empty(0, 2, 3, 16, 16), tokens)
    assert features.local_VBE.shape == (0, 2, 8)


def test_logit_scale__one_dimension_and_initial_temperature(tiny_dual_encoder: TinyDualEncoder) -> None:
    model = tiny_dual_encoder(initial_temperature=0.05)
    assert model.logit_scale.shape == (1,)
    assert model.logit_scale.item() == pytest.approx(math.log(20))
    assert model.scale().item() == pytest.approx(20)


def test_scale__has_its_gradient_at_and_above_the_bound(tiny_dual_encoder: TinyDualEncoder) -> None:
    """The bound is the optimizer's: one inside the model would hold the parameter above it for ever."""
    model = tiny_dual_encoder(max_logit_scale=50.0)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(60))
    model.scale().backward()
    assert model.scale().item() == pytest.approx(60)
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == pytest.approx(60), "d exp(x) / dx"


def test_encode__features_are_float32_under_autocast(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer
) -> None:
    model = tiny_dual_encoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(
            torch.randn(2, 2, 3, 32, 32), torch.randn(1, 2, 3, 16, 16), tiny_tokenizer.encode(["사과", "red"])
        )
    for rows in (features.global_VBE, features.local_VBE, features.text_BE, features.logit_scale):
        assert rows.dtype == torch.float32
    torch.testing.assert_close(features.text_BE.norm(dim=-1), torch.ones(2))


def test_forward__every_parameter_gets_a_gradient(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer
) -> None:
    model = tiny_dual_encoder()
    tokens = tiny_tokenizer.encode(["사과", "red apple"])
    features = model(torch.randn(1, 2, 3, 32, 32), torch.randn(1, 2, 3, 16, 16), tokens)
    total = (features.global_VBE[0] * features.text_BE).sum() + (features.local_VBE[0] * features.text_BE).sum()
    (total * features.logit_scale).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_parameters__the_defaults_are_the_published_model() -> None:
    """Reference: the official KELIP model: vision and text with their projections, and the logit scale."""
    with torch.device("meta"):
        text = TextEncoder(TextEncoderConfig(), vocab_size=98_818, context_length=77, eot_id=98_817, pad_id=0)
        model = DualEncoder(ImageEncoder(ImageEncoderConfig()), text, DualEncoderConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["image_encoder"] + counts["image_projection"] == 87_849_216
    assert counts["text_encoder"] + counts["text_projection"] == 88_726_016
    assert model.logit_scale.numel() == 1
    assert sum(p.numel() for p in model.parameters()) == 176_575_233


def test_forward__bfloat16_weights_give_float32_features(tiny_dual_encoder: Callable[..., DualEncoder]) -> None:
    model = tiny_dual_encoder()
    crops, tokens = torch.randn(2, 3, 3, 32, 32), torch.tensor([[277, 5, 278], [277, 6, 278], [277, 7, 278]])
    exact = model(crops, crops[:0], tokens)
    found = model.bfloat16()(crops, crops[:0], tokens)
    for half, single in ((found.global_VBE, exact.global_VBE), (found.text_BE, exact.text_BE)):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, single, rtol=0, atol=0.05)
    assert found.logit_scale.dtype == torch.float32
