"""From the bytes of an image file to an RGB picture."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_modules.errors import DataError

WHITE = (255, 255, 255)


def decode_image(data: bytes, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The picture in mode RGB; transparent parts show `background` (0-255 per channel).

    Raises:
        DataError: The bytes are no image that Pillow can read.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise DataError(f"the bytes are not a readable image: {error}") from error
    return flatten_image(image, background)


def flatten_image(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """A picture of any mode in mode RGB; transparent parts show `background` (0-255 per channel)."""
    if image.mode.startswith("I;16"):  # Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """The picture's pixels, uint8 (3, H, W)."""
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
