"""From pixels to the numbers that the image encoder takes; runs on the device."""

import torch
from torch import Tensor

from kelip_lightning.models.constants import device_constant

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize_images(images: Tensor) -> Tensor:
    """Pixels standardised per channel with CLIP's mean and standard deviation.

    Args:
        images: uint8 in 0..255 or floating point in 0..1, (..., 3, H, W).

    Returns:
        float32, same shape.

    Reference:
        The official KELIP preprocessing uses CLIP's constants (Radford et al. 2021).
    """
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    mean, std = channel_statistics(images.device).unbind()
    return (scaled - mean) / std


def channel_statistics(device: torch.device) -> Tensor:
    """CLIP's mean and standard deviation of each channel, float32 (2, 3, 1, 1)."""
    statistics: Tensor = device_constant((*CLIP_MEAN, *CLIP_STD), device)
    return statistics.view(2, 3, 1, 1)
