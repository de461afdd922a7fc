"""The one deterministic transform of every evaluation and prediction."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.decoding import decode_image, to_array

MAX_ASPECT = 8
"""Long over short side up to which a picture is resized whole, with torchvision's pixels to the last bit."""
_BICUBIC_REACH = 2
"""Pixels, of the coarser of source and result, that the filter reaches to each side."""


def evaluation_image(data: bytes, image_size: int) -> NDArray[np.uint8]:
    """The image on white, its short side resized (bicubic) to image_size, centre-cropped, uint8 (3, S, S).

    Reference: the preprocessing of the official KELIP code (Resize 224 bicubic, CenterCrop 224).
    """
    return centre_square(decode_image(data), image_size)


def table_image(cell: object, image_size: int, told: str) -> NDArray[np.uint8]:
    """The evaluation image of a table's cell, uint8 (3, S, S).

    Args:
        cell: A struct with `bytes`.
        image_size: S.
        told: What an error says of whose image it is.

    Raises:
        DataError: There are no bytes, or they are no image.
    """
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(content, bytes):
        raise DataError(f"{told} is {type(content).__name__}, not the bytes of a file; store the image in the table")
    try:
        return evaluation_image(content, image_size)
    except SampleFault as fault:
        raise DataError(f"{told}: {fault}; replace it, or leave its row out") from fault


def centre_square(image: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """An RGB picture, its short side resized (bicubic) to image_size, centre-cropped, uint8 (3, S, S).

    Deviation: of a picture longer than `MAX_ASPECT`, what will not show is cut off before it is resized, which gives
    the same pixels but for rounding: resized whole, one of 2 x 20,000 pixels would take gigabytes.
    """
    # Rounded as torchvision does, which made the features that others report.
    width, height = (image_size * side // min(image.size) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if max(image.size) > MAX_ASPECT * min(image.size):
        across, down = _span(image.width, width, left, image_size), _span(image.height, height, top, image_size)
        cut = image.crop((across.start, down.start, across.stop, down.stop))
        box = (
            across.low - across.start,
            down.low - down.start,
            across.high - across.start,
            down.high - down.start,
        )
        return to_array(cut.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return to_array(resized.crop((left, top, left + image_size, top + image_size)))


class _Span(NamedTuple):
    """Along one side: where the pixels that are kept begin and end, and the whole pixels that they are made from."""

    low: float
    high: float
    start: int
    stop: int


def _span(side: int, resized: int, first: int, size: int) -> _Span:
    """The part of a side that becomes the pixels [first, first + size) when the side is resized."""
    scale = side / resized
    low, high = first * scale, (first + size) * scale
    reach = math.ceil(_BICUBIC_REACH * max(scale, 1.0)) + 1
    return _Span(low, high, max(0, math.floor(low) - reach), min(side, math.ceil(high) + reach))
