"""From the bytes of an image file to an RGB picture.

The header is read first, so that crops can be chosen before anything is decoded: a large JPEG is then decoded at a
half, a quarter or an eighth of its size, which libjpeg does in the frequency domain (DCT).
"""

import functools
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from data_modules.faults import SampleFault
from data_modules.images.deep_grey import is_deep_grey, to_eight_bits
from data_modules.images.jpeg_header import plain_jpeg_size

WHITE = (255, 255, 255)
MAX_IMAGE_PIXELS = 1 << 26
"""Larger images (8192 x 8192) are taken for decompression bombs unless a limit is given."""
FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "MPO": ("jpg", "jpeg", "mpo"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif", "avifs"),
}
"""Formats that are read, with the endings that fit them. Pillow knows more; some of those start other programs."""
_OPENERS = [name for name in FORMATS if name != "MPO"]  # several JPEGs in one file: the JPEG reader opens them
_UPRIGHT, _ORIENTATION = 1, 0x0112


@dataclass(slots=True, kw_only=True)
class EncodedImage:
    """An image file whose header has been read."""

    data: bytes
    width: int
    """Pixels, as shown: after any EXIF rotation."""
    height: int
    is_plain_jpeg: bool
    """Whether it can be decoded at a reduced size, straight to pixels."""
    header: Image.Image | None = None
    """Opened by Pillow, not decoded; none where `plain_jpeg_size` told all."""


def open_image(
    data: bytes,
    file_name: str = "",
    repairs: list[str] | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> EncodedImage:
    """The image file with its header read.

    Args:
        data: The file's bytes.
        file_name: Its name, whose ending is compared with the content; empty: not compared.
        repairs: Gets the kinds of `faults.REPAIRED` that decoding will apply.
        max_pixels: More are refused before anything is decoded.

    Raises:
        SampleFault: It is no image in one of `FORMATS`, or too large.
    """
    ending = os.path.splitext(file_name)[1].lower().lstrip(".")
    found = repairs if repairs is not None else []
    if (size := plain_jpeg_size(data)) is not None:
        _check_size(size, max_pixels)
        found += _wrong_extension(ending, "JPEG")
        return EncodedImage(data=data, width=size[0], height=size[1], is_plain_jpeg=True)
    try:
        header = _open_with_pillow(data)
        orientation = _orientation(header)
        found += [*_repairs(header, orientation), *_wrong_extension(ending, header.format or "")]
    except MemoryError:  # the machine's, not the sample's
        raise
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise _undecodable(error, data) from error
    _check_size(header.size, max_pixels)
    # From 5 on it takes a quarter turn, which Pillow has already made in the size of a TIFF.
    turned = orientation >= 5 and header.format != "TIFF"
    width, height = header.size[::-1] if turned else header.size
    plain = header.format == "JPEG" and header.mode in ("RGB", "L") and orientation == _UPRIGHT
    return EncodedImage(data=data, header=header, width=width, height=height, is_plain_jpeg=plain)


def _open_with_pillow(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the stricter one
        return Image.open(io.BytesIO(data), formats=_OPENERS)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise SampleFault("image_too_large", f"{width} x {height} pixels; the limit is {max_pixels} in all")


def _undecodable(error: Exception, data: bytes) -> SampleFault:
    if isinstance(error, Image.DecompressionBombError):
        return SampleFault("image_too_large", f"the bytes are not a readable image of a sane size: {error}")
    if not data:
        return SampleFault("image_missing", "the bytes are not a readable image: there are none")
    # Pillow's own words hold the address of a buffer: the same fault shall read the same in every process.
    reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
    return SampleFault("image_undecodable", f"the bytes are not a readable image: {reason}")


def _orientation(header: Image.Image) -> int:
    if "exif" not in header.info and header.format != "TIFF":
        return _UPRIGHT
    try:
        found = int(header.getexif().get(_ORIENTATION, _UPRIGHT))
    except Exception:  # damaged EXIF of a picture that may be whole
        return _UPRIGHT
    return found if 1 <= found <= 8 else _UPRIGHT


def _wrong_extension(ending: str, image_format: str) -> list[str]:
    return ["wrong_extension"] if ending and ending not in FORMATS[image_format] else []


def _repairs(header: Image.Image, orientation: int) -> list[str]:
    checks = {
        "image_cmyk": header.mode == "CMYK",
        "image_16_bit": header.mode.startswith("I;16"),
        "image_32_bit": header.mode in ("I", "F"),
        "image_palette": header.mode in ("P", "PA"),
        "image_animated": bool(getattr(header, "is_animated", False)),
        "image_rotated": orientation != _UPRIGHT,
    }
    return [kind for kind, applies in checks.items() if applies]


def decode(image: EncodedImage, background: tuple[int, int, int] = WHITE, reduction: int = 1) -> Image.Image | Tensor:
    """The RGB picture: a tensor of a plain JPEG's pixels, Pillow's picture of anything else.

    Args:
        image: From `open_image`.
        background: What transparent parts show, 0-255 per channel.
        reduction: 1, 2, 4 or 8: the factor by which a plain JPEG comes out smaller, rounded up; others keep their size.

    Returns:
        uint8 (3, H, W), channels last in memory, or a picture in mode RGB.

    Raises:
        SampleFault: The bytes cannot be decoded (`image_undecodable`), or have no known white (`image_range_unknown`).
    """
    try:
        if image.is_plain_jpeg:
            return torch.from_numpy(_decode_jpeg(image, reduction)).permute(2, 0, 1)
        return flatten_image(image.header or _open_with_pillow(image.data), background)
    except (SampleFault, MemoryError):
        raise
    except Exception as error:  # as above
        raise _undecodable(error, image.data) from error


def to_picture(decoded: Image.Image | Tensor) -> Image.Image:
    """What `decode` gave, as a picture."""
    return decoded if isinstance(decoded, Image.Image) else Image.fromarray(decoded.permute(1, 2, 0).numpy())


def decode_image(data: bytes, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The picture at full size in mode RGB; transparent parts show `background` (0-255 per channel).

    Raises:
        SampleFault: The bytes are no image that is read, or not a whole one.
    """
    image = open_image(data)
    try:
        return flatten_image(image.header or _open_with_pillow(data), background)
    except (SampleFault, MemoryError):
        raise
    except Exception as error:  # as above
        raise _undecodable(error, data) from error


def flatten_image(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """A picture of any mode, upright and in mode RGB; transparent parts show `background` (0-255 per channel).

    Raises:
        SampleFault: It is grey of 32 bits, and which value is white cannot be told (`image_range_unknown`).
    """
    image.load()
    image = ImageOps.exif_transpose(image) if _orientation(image) != _UPRIGHT else image
    if is_deep_grey(image.mode):
        image = to_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _decode_jpeg(image: EncodedImage, reduction: int) -> NDArray[np.uint8]:
    """The pixels, uint8 (H, W, 3): by simplejpeg where it is installed, else by Pillow; both by libjpeg-turbo."""
    if (decoder := _simplejpeg()) is not None:
        try:
            return decoder(image.data, min_width=-(-image.width // reduction), min_height=-(-image.height // reduction))
        except ValueError:
            pass  # it also refuses what libjpeg can mend: Pillow decides
    header = image.header or _open_with_pillow(image.data)
    header.draft("RGB", (max(1, image.width // reduction), max(1, image.height // reduction)))
    return np.array(header.convert("RGB"))


@functools.cache
def _simplejpeg() -> Callable[..., NDArray[np.uint8]] | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    decoder: Callable[..., NDArray[np.uint8]] = functools.partial(simplejpeg.decode_jpeg, colorspace="RGB")
    return decoder


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """The picture's pixels, uint8 (3, H, W)."""
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
