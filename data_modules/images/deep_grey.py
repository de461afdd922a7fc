"""Grey pictures of 12, 16 and 32 bits, scaled to 8.

Pillow's own conversion cuts off at 0 and 255, so that most of such a picture turns white, or black.

Reference: TIFF 6.0, sections 4 (PhotometricInterpretation), 8 (MinSampleValue) and 19 (SMinSampleValue).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_modules.faults import SampleFault

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_RANGES = ((340, 341), (280, 281))
"""Tags of the smallest and the largest sample value: of any type, and of unsigned integers."""
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


def is_deep_grey(mode: str) -> bool:
    """Whether pictures of this mode of Pillow hold grey of more than 8 bits."""
    return mode == "F" or mode.startswith("I")


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A loaded picture in mode I;16 (any byte order), I or F as mode L; LA where one value stands for transparent.

    16-bit values are divided by 257, 12-bit ones by 4095 / 255. 32-bit values, and signed ones of 16 bits, are scaled
    from the range that the file's tags state; floats without one from [0, 1], where none lies outside.

    Raises:
        SampleFault: The values of mode I or F have no known range (`image_range_unknown`).
    """
    values = _values(image)
    low, high = _range(image, values)
    scaled = np.clip((values - low) / (high - low), 0, 1) * 255
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    grey = Image.fromarray(np.round(scaled).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _values(image: Image.Image) -> NDArray[np.float64]:
    pixels = np.asarray(image)
    bits = _tag(image, _BITS_PER_SAMPLE)
    if image.mode == "I" and bits == 32 and (_tag(image, _SAMPLE_FORMAT) or _UNSIGNED) == _UNSIGNED:
        pixels = pixels.view(np.uint32)  # Pillow keeps the bits of unsigned ones, and calls them signed
    return pixels.astype(np.float64)


def _range(image: Image.Image, values: NDArray[np.float64]) -> tuple[float, float]:
    if image.mode.startswith("I;16"):
        return 0.0, float((1 << int(_tag(image, _BITS_PER_SAMPLE) or 16)) - 1)
    for tags in _RANGES:
        low, high = (_tag(image, tag) for tag in tags)
        if low is not None and high is not None:
            if math.isfinite(low) and math.isfinite(high) and low < high and np.isfinite(values).all():
                return low, high
            raise _unknown(image, values, f"in the stated range {low:g} to {high:g}")
    if image.mode == "F" and values.size and np.min(values) >= 0 and np.max(values) <= 1:
        return 0.0, 1.0
    raise _unknown(image, values, "without a stated range")


def _unknown(image: Image.Image, values: NDArray[np.float64], what: str) -> SampleFault:
    smallest, largest = (values.min(), values.max()) if values.size else (math.nan, math.nan)
    return SampleFault(
        "image_range_unknown",
        f"mode {image.mode} with values from {smallest:g} to {largest:g} {what}: which of them is black, and which "
        "white, cannot be told",
    )


def _tag(image: Image.Image, number: int) -> float | None:
    """The value of a TIFF tag that holds one number; none where it is absent, or the picture is no TIFF."""
    value: Any = getattr(image, "tag_v2", {}).get(number)
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    try:
        return None if value is None or isinstance(value, bytes | str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
