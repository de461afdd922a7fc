"""The two functions through which an evaluation sees a dual encoder.

They hide device, dtype, normalisation and tokenizer, so that the callback of a run and the
`evaluate` verb embed in the same way.
"""

from typing import Protocol

import torch
from torch import Tensor

from kelip_lightning.evaluation.embed import ImageEncode, TextEncode
from kelip_lightning.models.preprocessing import normalize_images


class ImageTextModel(Protocol):
    """What an evaluation asks of a model; `DualEncoder` offers it."""

    @property
    def logit_scale(self) -> Tensor:
        """Tells the model's device and dtype."""

    def encode_image(self, images: Tensor, /, l2norm: bool = True) -> Tensor:
        """Normalised float images (B, 3, H, W) -> (B, E)."""

    def encode_text(self, tokens: Tensor, /, l2norm: bool = True) -> Tensor:
        """Token ids (B, T) int64 -> (B, E)."""


class TextTokenizer(Protocol):
    """What an evaluation asks of a tokenizer; `BilingualTokenizer` offers it."""

    def encode(self, texts: list[str], /) -> Tensor:
        """B texts -> padded token ids (B, T) int64."""


def image_encode_function(model: ImageTextModel) -> ImageEncode:
    """uint8 images (B, 3, H, W) -> (B, E), on the model's device and in the dtype of its parameters.

    Autocast is switched off: a model trained in mixed precision is evaluated in float32, where
    scores do not collide. One held wholly in bfloat16 is evaluated in bfloat16.
    """

    def encode(images: Tensor) -> Tensor:
        scale = model.logit_scale
        with torch.autocast(scale.device.type, enabled=False):
            return model.encode_image(normalize_images(images.to(scale.device)).to(scale.dtype), l2norm=True)

    return encode


def text_encode_function(model: ImageTextModel, tokenizer: TextTokenizer) -> TextEncode:
    """B texts -> (B, E), on the model's device, autocast switched off."""

    def encode(texts: list[str]) -> Tensor:
        device = model.logit_scale.device
        with torch.autocast(device.type, enabled=False):
            return model.encode_text(tokenizer.encode(texts).to(device), l2norm=True)

    return encode
