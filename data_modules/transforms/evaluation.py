"""The one deterministic transform of every evaluation and prediction."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_modules.decoding import decode_image, to_array


def evaluation_image(data: bytes, image_size: int) -> NDArray[np.uint8]:
    """The image on white, its short side resized (bicubic) to image_size, centre-cropped, uint8 (3, S, S).

    Reference: the preprocessing of the official KELIP code (Resize 224 bicubic, CenterCrop 224).
    """
    return centre_square(decode_image(data), image_size)


def centre_square(image: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """An RGB picture, its short side resized (bicubic) to image_size, centre-cropped, uint8 (3, S, S)."""
    # Rounded as torchvision does, which made the features that others report.
    width, height = (image_size * side // min(image.size) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return to_array(resized.crop((left, top, left + image_size, top + image_size)))
