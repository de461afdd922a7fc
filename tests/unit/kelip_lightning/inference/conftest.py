"""Image files of every kind that decoding repairs, and captions."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image


def _encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def image_files() -> dict[str, bytes]:
    """Kind -> the bytes of an image of 50 x 40 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    rgb = Image.fromarray(pixels[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb": _encoded(rgb, "PNG"),
        "transparent": _encoded(Image.fromarray(pixels), "PNG"),
        "cmyk": _encoded(rgb.convert("CMYK"), "JPEG"),
        "16_bit": _encoded(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"),
        "rotated": _encoded(rgb, "JPEG", exif=exif),
    }


@pytest.fixture(scope="session")
def captions() -> list[str]:
    return ["사과", "빨간 사과", "a red apple", "Green apple " * 20]
