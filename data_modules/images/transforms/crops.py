"""Random resized crops: all boxes are drawn first, then the file is decoded once, then each is cut and resized."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data_modules.images.decoding import EncodedImage, decode, to_array

Box = tuple[float, float, float, float]

_MAX_LOG_ASPECT = math.log(4 / 3)
_LARGEST_REDUCTION = 8
"""libjpeg's; see `decoding.decode`."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One crop of a picture."""

    box: Box
    """Left, top, right, bottom in pixels, not rounded."""
    size: int
    """Side of the result in pixels."""
    flip: bool
    """Whether it is mirrored."""


def check_scales(name: str, low: float, high: float) -> None:
    """Raise ValueError unless low <= high."""
    if low > high:
        raise ValueError(f"{name}_min = {low} must not exceed {name}_max = {high}")


def draw_box(width: int, height: int, scale_min: float, scale_max: float, generator: np.random.Generator) -> Box:
    """A random crop box (left, top, right, bottom) in pixels, not rounded.

    The area is a share of the picture's, uniform in [scale_min, scale_max]; the aspect ratio is log-uniform in
    [3/4, 4/3] as in Szegedy et al. 2015. A side that would not fit is cut to the picture's.
    """
    area = width * height * generator.uniform(scale_min, scale_max)
    aspect = math.exp(generator.uniform(-_MAX_LOG_ASPECT, _MAX_LOG_ASPECT))
    box_width = min(float(width), math.sqrt(area * aspect))
    box_height = min(float(height), math.sqrt(area / aspect))
    left = generator.uniform(0.0, 1.0) * (width - box_width)
    top = generator.uniform(0.0, 1.0) * (height - box_height)
    return left, top, left + box_width, top + box_height


def cut_crops(image: EncodedImage, crops: Sequence[Crop], background: tuple[int, int, int]) -> list[NDArray[np.uint8]]:
    """The crops, uint8 (3, size, size) each, of a file that is decoded once, no larger than they need.

    Raises:
        SampleFault: The file cannot be decoded.
    """
    reduction = choose_reduction(crops) if image.is_plain_jpeg else 1
    picture = decode(image, background, reduction)
    if isinstance(picture, Image.Image):
        return [crop_resized(picture, crop.box, crop.size, crop.flip) for crop in crops]
    across, down = picture.shape[2] / image.width, picture.shape[1] / image.height
    return [_crop_pixels(picture, crop, across, down) for crop in crops]


def choose_reduction(crops: Sequence[Crop]) -> int:
    """The largest of 1, 2, 4 and 8 by which a picture may shrink without one of its crops being enlarged by it."""
    smallest = min(
        (min(crop.box[2] - crop.box[0], crop.box[3] - crop.box[1]) / crop.size for crop in crops), default=1.0
    )
    return min(_LARGEST_REDUCTION, 1 << max(0, math.floor(math.log2(max(smallest, 1.0)))))


def _crop_pixels(picture: Tensor, crop: Crop, across: float, down: float) -> NDArray[np.uint8]:
    """The crop out of pixels, uint8 (3, H, W), that are `across` and `down` times the size in which it was drawn.

    Deviation: its edges are rounded to whole pixels, since torch's kernel, far faster than Pillow's, takes no box.
    """
    left, right = _rounded(crop.box[0] * across, crop.box[2] * across, picture.shape[2])
    top, bottom = _rounded(crop.box[1] * down, crop.box[3] * down, picture.shape[1])
    # Of an input in one piece, channels last, torch's kernel makes the same pixels in two thirds of the time.
    cut = picture[None, :, top:bottom, left:right].contiguous(memory_format=torch.channels_last)
    if cut.shape[2:] != (crop.size, crop.size):
        cut = F.interpolate(cut, size=(crop.size, crop.size), mode="bicubic", antialias=True, align_corners=False)
    pixels: NDArray[np.uint8] = (cut.flip(3) if crop.flip else cut)[0].numpy()
    return pixels


def _rounded(low: float, high: float, limit: int) -> tuple[int, int]:
    start = min(round(low), limit - 1)
    return start, min(max(round(high), start + 1), limit)


def crop_resized(image: Image.Image, box: Box, size: int, flip: bool = False) -> NDArray[np.uint8]:
    """The box of the picture, resized to size x size, uint8 (3, size, size)."""
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return to_array(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop)
