"""The closures through which an evaluation sees a model: device, dtype, autocast, normalisation."""

import torch
from torch import Tensor, nn

from kelip_lightning.evaluation.encoders import image_encode_function, text_encode_function
from kelip_lightning.models.preprocessing import normalize_images


class _Tokenizer:
    def encode(self, texts: list[str]) -> Tensor:
        return torch.tensor([[len(text)] for text in texts])


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.image_layer = nn.Linear(3, 4)
        self.text_layer = nn.Linear(1, 4)
        self.seen_dtype: torch.dtype | None = None

    def encode_image(self, images: Tensor, l2norm: bool = True) -> Tensor:
        features: Tensor = self.image_layer(images.mean(dim=(2, 3)))
        self.seen_dtype = features.dtype
        return features

    def encode_text(self, tokens: Tensor, l2norm: bool = True) -> Tensor:
        features: Tensor = self.text_layer(tokens.to(self.logit_scale.dtype))
        self.seen_dtype = features.dtype
        return features


def test_image_encode_function__normalises_and_ignores_autocast() -> None:
    model, images = _Model(), torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = image_encode_function(model)(images)
    assert model.seen_dtype == torch.float32
    torch.testing.assert_close(features, model.encode_image(normalize_images(images)))


def test_encode_functions__follow_a_bfloat16_model() -> None:
    model = _Model().bfloat16()
    image_encode_function(model)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert model.seen_dtype == torch.bfloat16
    text_encode_function(model, _Tokenizer())(["a", "bc"])
    assert model.seen_dtype == torch.bfloat16


def test_text_encode_function__ignores_autocast() -> None:
    model = _Model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text_encode_function(model, _Tokenizer())(["a"])
    assert model.seen_dtype == torch.float32
