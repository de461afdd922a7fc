"""A model as the evaluation sees it: functions from stored images and texts to embeddings.

Shapes: B items of a batch, E embedding width, C/H/W image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFunctions:
    """The functions of an image encoder, for features without texts."""

    name: str
    """For titles."""
    preprocess: Callable[[bytes], Tensor]
    """An encoded image file -> (3, H, W), uint8 or float32, of one size; runs in loader workers. Raises SampleFault for
    bytes that are no image."""
    encode_images: Callable[[Tensor], Tensor]
    """(B, 3, H, W) as stacked from `preprocess`, on the CPU -> (B, E), any float dtype, any device."""
    device: torch.device
    """Where metrics are computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders(ImageFunctions):
    """The functions of one model, ours or another library's."""

    encode_texts: Callable[[list[str]], Tensor]
    """B texts -> (B, E), any float dtype, any device."""
    logit_scale: float
    """1 / temperature, for probabilities."""
