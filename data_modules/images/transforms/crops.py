"""Random resized crops of an image file: header, crop boxes, decoding at the size that the boxes need, crops."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data_modules.images.config import Background
from data_modules.images.decoding import MAX_REDUCTION, WHITE, EncodedImage, decode, open_image, to_array

Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]

_MAX_LOG_ASPECT = math.log(4 / 3)


class CropDistribution(NamedTuple):
    """`number` crops whose boxes follow one distribution."""

    number: int
    size: int
    """Side of the result in pixels."""
    scale_min: float
    """Smallest share of the image's area."""
    scale_max: float
    flip: float
    """Probability of a horizontal flip."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One sampled crop."""

    box: Box
    """Left, top, right, bottom in pixels, not rounded."""
    size: int
    """Side of the result in pixels."""
    flip: bool
    """Whether it is flipped horizontally."""


def random_crops(
    data: bytes | EncodedImage,
    distributions: Sequence[CropDistribution],
    background: Background,
    generator: np.random.Generator,
) -> list[Pixels]:
    """Sample all crops from the header, then decode the file once.

    Args:
        data: The image file's bytes, or the file with its header read.
        distributions: Sampled in this order.
        background: Colour behind transparent pixels.
        generator: The sample's random stream: the background first, then box and flip of each crop.

    Returns:
        The crops in order, uint8 (3, size, size) each.

    Raises:
        SampleFault: The bytes cannot be decoded.
    """
    image = data if isinstance(data, EncodedImage) else open_image(data)
    colour = sample_background(background, generator)
    crops = [
        Crop(
            sample_box(image.width, image.height, one.scale_min, one.scale_max, generator),
            one.size,
            flip=generator.uniform() < one.flip,
        )
        for one in distributions
        for _ in range(one.number)
    ]
    return cut_crops(image, crops, colour)


def sample_background(background: Background, generator: np.random.Generator) -> tuple[int, int, int]:
    """A colour (red, green, blue), 0-255 each; takes three integers from the stream for every setting."""
    low = 192 if background is Background.light else 0
    red, green, blue = (int(value) for value in generator.integers(low, 256, size=3))
    return WHITE if background is Background.white else (red, green, blue)


def sample_box(width: int, height: int, scale_min: float, scale_max: float, generator: np.random.Generator) -> Box:
    """A random crop box (left, top, right, bottom) in pixels, not rounded.

    The share of the image's area is uniform in [scale_min, scale_max] and the aspect ratio log-uniform in [3/4, 4/3]
    (Szegedy et al. 2015). A side longer than the image's is cut to it.
    """
    area = width * height * generator.uniform(scale_min, scale_max)
    aspect = math.exp(generator.uniform(-_MAX_LOG_ASPECT, _MAX_LOG_ASPECT))
    box_width = min(float(width), math.sqrt(area * aspect))
    box_height = min(float(height), math.sqrt(area / aspect))
    left = generator.uniform(0.0, 1.0) * (width - box_width)
    top = generator.uniform(0.0, 1.0) * (height - box_height)
    return left, top, left + box_width, top + box_height


def cut_crops(image: EncodedImage, crops: Sequence[Crop], background: tuple[int, int, int]) -> list[Pixels]:
    """Decode the file once, no larger than the crops need, then cut out and resize each crop."""
    decoded = decode(image, background, choose_reduction(crops) if image.is_plain_jpeg else 1)
    if isinstance(decoded, Image.Image):
        return [crop_resized(decoded, crop.box, crop.size, crop.flip) for crop in crops]
    scale_x, scale_y = decoded.shape[2] / image.width, decoded.shape[1] / image.height
    return [_crop_tensor(decoded, crop, scale_x, scale_y) for crop in crops]


def choose_reduction(crops: Sequence[Crop]) -> int:
    """The largest of 1, 2, 4 and 8 at which no crop has to be enlarged that would not be at full size."""
    smallest = min(
        (min(crop.box[2] - crop.box[0], crop.box[3] - crop.box[1]) / crop.size for crop in crops), default=1.0
    )
    return min(MAX_REDUCTION, 1 << max(0, math.floor(math.log2(max(smallest, 1.0)))))


def _crop_tensor(decoded: Tensor, crop: Crop, scale_x: float, scale_y: float) -> Pixels:
    """The crop of uint8 (3, H, W), which is `scale_x` and `scale_y` times the size that the box refers to.

    Deviation: its edges are rounded to whole pixels, since torch's kernel, far faster than Pillow's, takes no box.
    """
    left, right = _rounded(crop.box[0] * scale_x, crop.box[2] * scale_x, decoded.shape[2])
    top, bottom = _rounded(crop.box[1] * scale_y, crop.box[3] * scale_y, decoded.shape[1])
    # On contiguous channels-last input, torch's kernel gives the same pixels in two thirds of the time.
    cut = decoded[None, :, top:bottom, left:right].contiguous(memory_format=torch.channels_last)
    if cut.shape[2:] != (crop.size, crop.size):
        cut = F.interpolate(cut, size=(crop.size, crop.size), mode="bicubic", antialias=True, align_corners=False)
    pixels: Pixels = (cut.flip(3) if crop.flip else cut)[0].numpy()
    return pixels


def _rounded(low: float, high: float, limit: int) -> tuple[int, int]:
    start = min(round(low), limit - 1)
    return start, min(max(round(high), start + 1), limit)


def crop_resized(image: Image.Image, box: Box, size: int, flip: bool = False) -> Pixels:
    """The box of the image, resized to size x size, uint8 (3, size, size)."""
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return to_array(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop)
