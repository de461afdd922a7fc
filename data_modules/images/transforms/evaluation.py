"""The deterministic transform of evaluation and prediction."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_modules.images.decoding import decode_image, to_array

MAX_ASPECT = 8
"""Up to this aspect ratio an image is resized whole, bit-identical to torchvision."""
_BICUBIC_SUPPORT = 2
"""Radius of the filter in pixels of the coarser of source and result."""


def evaluation_image(data: bytes, image_size: int) -> NDArray[np.uint8]:
    """The image on white, its short side resized (bicubic) to image_size, centre-cropped, uint8 (3, S, S).

    Reference: the preprocessing of the official KELIP code (Resize 224 bicubic, CenterCrop 224).

    Raises:
        SampleFault: The bytes cannot be decoded.
    """
    return centre_square(decode_image(data), image_size)


def centre_square(image: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """An RGB image, its short side resized (bicubic) to image_size, centre-cropped, uint8 (3, S, S).

    Deviation: beyond `MAX_ASPECT` the image is cut before it is resized, which gives the same pixels up to rounding;
    resizing a whole image of 2 x 20,000 pixels would take gigabytes.
    """
    # Rounded as in torchvision, for features comparable with published ones.
    width, height = (image_size * side // min(image.size) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if max(image.size) > MAX_ASPECT * min(image.size):
        x_start, x_stop, x_low, x_high = _source_span(image.width, width, left, image_size)
        y_start, y_stop, y_low, y_high = _source_span(image.height, height, top, image_size)
        cut, box = image.crop((x_start, y_start, x_stop, y_stop)), (x_low, y_low, x_high, y_high)
        return to_array(cut.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return to_array(resized.crop((left, top, left + image_size, top + image_size)))


def _source_span(side: int, resized: int, first: int, size: int) -> tuple[int, int, float, float]:
    """Pixels [start, stop) that the filter reads for [first, first + size) of the result, and the latter's edges.

    The edges are in source pixels from `start`.
    """
    scale = side / resized
    low, high = first * scale, (first + size) * scale
    reach = math.ceil(_BICUBIC_SUPPORT * max(scale, 1.0)) + 1
    start, stop = max(0, math.floor(low) - reach), min(side, math.ceil(high) + reach)
    return start, stop, low - start, high - start
