"""A model as the evaluation sees it: functions from stored images and texts to embeddings."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The functions of one model; features are not normalised."""

    name: str
    preprocess: Callable[[bytes], Tensor]
    """An encoded image file -> (3, H, W), uint8 or float32. It runs in loader workers, so it must be picklable. It
    raises `SampleFault` for bytes that are no image."""
    encode_images: Callable[[Tensor], Tensor]
    """(B, 3, H, W) as stacked from `preprocess`, on the CPU -> (B, E), any float dtype, any device."""
    encode_texts: Callable[[list[str]], Tensor]
    """B texts -> (B, E), any float dtype, any device."""
    logit_scale: float
    """1 / temperature."""
    device: torch.device
