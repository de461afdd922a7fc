"""Random resized crops: the box is drawn first, then cut and resized in one operation."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_modules.decoding import to_array

Box = tuple[float, float, float, float]

_MAX_LOG_ASPECT = math.log(4 / 3)


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


def crop_resized(image: Image.Image, box: Box, size: int, flip: bool = False) -> NDArray[np.uint8]:
    """The box of the picture, resized to size x size, uint8 (3, size, size)."""
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return to_array(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop)
