"""Image standardisation on the device, and constants that are copied to a device once."""

from functools import cache

import torch
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize_images(images: Tensor) -> Tensor:
    """Standardise pixels per channel with CLIP's mean and standard deviation (Radford et al. 2021), as KELIP does.

    Args:
        images: uint8 in 0..255 or floating point in 0..1, (..., 3, H, W).

    Returns:
        float32, same shape.
    """
    mean, std = channel_statistics(images.device).unbind()
    if images.dtype == torch.uint8:  # in place: a batch of evaluation images is 0.6 MB of float32 each
        return images.float().div_(255).sub_(mean).div_(std)
    return (images.float() - mean).div_(std)


def normalize_patches(patches: Tensor) -> Tensor:
    """Standardise patches as `normalize_images` does images.

    Args:
        patches: uint8 (..., P), channels last within a patch.

    Returns:
        float32, same shape.
    """
    factors = (1 / (255 * std) for std in CLIP_STD)
    shifts = (-mean / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True))
    # One constant: the compiler takes no second one of the same function.
    constants: Tensor = device_constant((*factors, *shifts), patches.device)
    factors_P, shifts_P = constants.view(2, -1).repeat(1, patches.shape[-1] // len(CLIP_MEAN))
    return patches.float().mul_(factors_P).add_(shifts_P)


def channel_statistics(device: torch.device) -> Tensor:
    """CLIP's mean and standard deviation of each channel, float32 (2, 3, 1, 1)."""
    statistics: Tensor = device_constant((*CLIP_MEAN, *CLIP_STD), device)
    return statistics.view(2, 3, 1, 1)


# Called once per graph: the compiler keeps the tensor as a constant.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def device_constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as float32 (N,), cached per device, since a copy of Python numbers synchronises; do not modify."""
    return _cached(values, device)


@cache
def _cached(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Inference tensors cannot be used in training. The dtype is explicit: the default is bfloat16 under bf16-true.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
