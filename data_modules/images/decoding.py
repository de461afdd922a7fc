"""From the bytes of an image file to RGB pixels: `open_image` reads the header, `decode` the pixels.

Crop boxes are chosen in between: a JPEG larger than its crops need is decoded at 1/2, 1/4 or 1/8 of its size, which
libjpeg does in the frequency domain (DCT).

Reference: ITU-T T.81, annex B (JPEG markers and segments); TIFF 6.0, sections 4 (PhotometricInterpretation),
8 (MinSampleValue) and 19 (SMinSampleValue).
"""

import functools
import io
import math
import os
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data_modules.faults import SampleFault
from data_modules.images.config import MAX_IMAGE_PIXELS
from data_modules.images.planes import decode_planes, planes_size

WHITE = (255, 255, 255)
MAX_REDUCTION = 8
"""Largest factor by which libjpeg reduces an image while decoding."""
PLANES = "YUV420"
"""The format of `images.planes`, which Pillow does not know."""
FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "MPO": ("jpg", "jpeg", "mpo"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif", "avifs"),
    PLANES: ("yuv",),
}
"""Supported format -> matching file extensions. Some of Pillow's other formats start external programs."""
# MPO is several JPEGs in one file, opened by the JPEG plugin.
_OPENERS = [name for name in FORMATS if name not in ("MPO", PLANES)]
_UPRIGHT, _ORIENTATION = 1, 0x0112

_JPEG_START, _JPEG_SCAN = b"\xff\xd8", 0xDA
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive: supported by every libjpeg."""
_JPEG_IGNORED = frozenset({0xC4, 0xDB, 0xDD, 0xE0, 0xED, 0xEE, 0xFE})
"""Huffman and quantisation tables, restart interval, JFIF, Photoshop, Adobe, comment."""
_JPEG_PROFILE, _JPEG_PROFILE_NAME = 0xE2, b"ICC_PROFILE\0"

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_TIFF_RANGES = ((340, 341), (280, 281))
"""Tags of the smallest and largest sample value: of any type, and of unsigned integers."""
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


@dataclass(slots=True, kw_only=True)
class EncodedImage:
    """An image file with its header read."""

    data: bytes
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    is_plain_jpeg: bool
    """RGB or grey, 8 bits a channel, not rotated: can be decoded at a reduced size."""
    has_planes: bool = False
    """A file of `images.planes`."""
    header: Image.Image | None = None
    """Opened by Pillow, not decoded; `None` if the size was read without it."""

    def reduced_size(self, reduction: int) -> tuple[int, int]:
        """Height and width of the pixels that `decode` gives at this reduction."""
        divisor = reduction if self.is_plain_jpeg else 1
        return -(-self.height // divisor), -(-self.width // divisor)


def open_image(
    data: bytes, file_name: str = "", repairs: list[str] | None = None, max_pixels: int = MAX_IMAGE_PIXELS
) -> EncodedImage:
    """Read the header of an image file.

    Args:
        data: The file's bytes.
        file_name: Its extension is compared with the content; empty: not compared.
        repairs: Receives the kinds of `faults.REPAIRED` that decoding will apply.
        max_pixels: Limit of width x height.

    Raises:
        SampleFault: Not an image in one of `FORMATS`, or too large.
    """
    extension = os.path.splitext(file_name)[1].lower().lstrip(".")
    found = repairs if repairs is not None else []
    try:
        image, file_format = _read_header(data, found)
    except MemoryError:  # a fault of the machine, not of the sample
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise _undecodable(error, data) from error
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} pixels"
        raise SampleFault("image_too_large", f"{size}; the limit is {max_pixels} in all")
    if extension and extension not in FORMATS[file_format]:
        found.append("wrong_extension")
    return image


def _read_header(data: bytes, repairs: list[str]) -> tuple[EncodedImage, str]:
    """The image file and its format; adds the repairs that decoding will apply."""
    if (size := plain_jpeg_size(data)) is not None:
        return EncodedImage(data=data, width=size[0], height=size[1], is_plain_jpeg=True), "JPEG"
    if (size := planes_size(data)) is not None:
        image = EncodedImage(data=data, width=size[0], height=size[1], is_plain_jpeg=False, has_planes=True)
        return image, PLANES
    header = _open_with_pillow(data)
    orientation, file_format = _orientation(header), header.format or ""
    repairs += _repairs(header, orientation)
    width, height = header.size
    if orientation >= 5 and file_format != "TIFF":  # the sides are swapped, which Pillow has done for a TIFF
        width, height = height, width
    is_plain = file_format == "JPEG" and header.mode in ("RGB", "L") and orientation == _UPRIGHT
    return EncodedImage(data=data, width=width, height=height, is_plain_jpeg=is_plain, header=header), file_format


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG in RGB or grey, 8 bits a channel, without EXIF.

    It takes a few microseconds, Pillow fifty. `None`: Pillow has to interpret a segment (EXIF, further images, damage).
    """
    if not data.startswith(_JPEG_START):
        return None
    size: tuple[int, int] | None = None
    offset, last = len(_JPEG_START), len(data) - 10
    while offset < last and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == _JPEG_SCAN:
            return size
        if marker in _JPEG_FRAMES:
            precision, height, width, channels = struct.unpack_from(">BHHB", data, offset + 4)
            if precision != 8 or channels not in (1, 3) or not width or not height:
                return None
            size = width, height
        elif marker == _JPEG_PROFILE:
            if not data.startswith(_JPEG_PROFILE_NAME, offset + 4):
                return None
        elif marker not in _JPEG_IGNORED:
            return None
        offset += 2 + (data[offset + 2] << 8 | data[offset + 3])
    return None


def _open_with_pillow(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` is stricter
        return Image.open(io.BytesIO(data), formats=_OPENERS)


def _undecodable(error: Exception, data: bytes) -> SampleFault:
    if isinstance(error, Image.DecompressionBombError):
        return SampleFault("image_too_large", f"the bytes are not a readable image of a sane size: {error}")
    if not data:
        return SampleFault("image_missing", "the bytes are not a readable image: there are none")
    # Pillow's message holds a memory address; a fault must read the same in every process.
    reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
    return SampleFault("image_undecodable", f"the bytes are not a readable image: {reason}")


def _orientation(header: Image.Image) -> int:
    if "exif" not in header.info and header.format != "TIFF":
        return _UPRIGHT
    try:
        found = int(header.getexif().get(_ORIENTATION, _UPRIGHT))
    except Exception:  # the EXIF is damaged; the pixels may be intact
        return _UPRIGHT
    return found if 1 <= found <= 8 else _UPRIGHT


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


def decode(
    image: EncodedImage,
    background: tuple[int, int, int] = WHITE,
    reduction: int = 1,
    memory: NDArray[np.uint8] | None = None,
) -> Image.Image | NDArray[np.uint8]:
    """The RGB pixels: an array for a plain JPEG and for planes, a Pillow image otherwise.

    Args:
        image: From `open_image`.
        background: Colour behind transparent pixels, 0-255 per channel.
        reduction: 1, 2, 4 or 8: sides of a plain JPEG are divided by it and rounded up; other images keep their size.
        memory: Where the pixels of a plain JPEG may be put, uint8 (N,), as long or longer; `None`: in new memory.

    Returns:
        uint8 (H, W, 3), or an image in mode RGB.

    Raises:
        SampleFault: Damaged bytes (`image_undecodable`), or 32-bit values of unknown range (`image_range_unknown`).
    """
    try:
        if image.is_plain_jpeg:
            return _decode_jpeg(image, reduction, memory)
        if image.has_planes:
            return decode_planes(image.data)
        return flatten_image(image.header or _open_with_pillow(image.data), background)
    except (SampleFault, MemoryError):
        raise
    except Exception as error:  # as in `open_image`
        raise _undecodable(error, image.data) from error


def jpeg_ycbcr(image: EncodedImage) -> Image.Image | None:
    """The pixels of a plain JPEG in mode YCbCr, as it stores them, its colours upsampled; `None`: it stores others."""
    header = _open_with_pillow(image.data)
    header.draft("YCbCr", header.size)
    if not image.is_plain_jpeg or header.mode != "YCbCr":
        return None
    try:
        header.load()
    except Exception:  # RGB inside a JPEG, which libjpeg does not convert, or damage, which `decode` reports
        return None
    return header


def decode_image(data: bytes, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """`open_image` and `decode` at full size, as an image in mode RGB."""
    return to_picture(decode(open_image(data), background))


def to_picture(decoded: Image.Image | NDArray[np.uint8]) -> Image.Image:
    """The result of `decode` as a Pillow image."""
    return decoded if isinstance(decoded, Image.Image) else Image.fromarray(decoded)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an RGB image, uint8 (3, H, W)."""
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def _decode_jpeg(image: EncodedImage, reduction: int, memory: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The pixels, uint8 (H, W, 3), by simplejpeg where it is installed, else by Pillow; both use libjpeg-turbo."""
    if (decoder := _simplejpeg()) is not None:
        try:
            height, width = image.reduced_size(reduction)
            return decoder(image.data, min_height=height, min_width=width, buffer=memory)
        except ValueError:
            pass  # it also rejects damage that libjpeg repairs: Pillow decides
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


def flatten_image(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Convert an image of any mode to upright RGB; `background` (0-255 per channel) shows behind transparent pixels.

    Raises:
        SampleFault: The range of 32-bit grey values is unknown (`image_range_unknown`).
    """
    image.load()
    image = ImageOps.exif_transpose(image) if _orientation(image) != _UPRIGHT else image
    if image.mode == "F" or image.mode.startswith("I"):
        image = _scale_to_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _scale_to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 12, 16 or 32 bits as mode L, or LA where one value means transparent.

    Pillow's own conversion clips at 0 and 255, which turns most of such an image white or black. Here 16-bit values are
    divided by 257 and 12-bit values by 4095 / 255. 32-bit and signed 16-bit values are scaled from the range in the
    file's tags; floats without one from [0, 1], if all lie inside.
    """
    values = _grey_values(image)
    low, high = _grey_range(image, values)
    scaled = np.clip((values - low) / (high - low), 0, 1) * 255
    if _tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    grey = Image.fromarray(np.round(scaled).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _grey_values(image: Image.Image) -> NDArray[np.float64]:
    pixels = np.asarray(image)
    bits = _tiff_tag(image, _BITS_PER_SAMPLE)
    if image.mode == "I" and bits == 32 and (_tiff_tag(image, _SAMPLE_FORMAT) or _UNSIGNED) == _UNSIGNED:
        pixels = pixels.view(np.uint32)  # Pillow keeps the bits of unsigned values and labels them signed
    return pixels.astype(np.float64)


def _grey_range(image: Image.Image, values: NDArray[np.float64]) -> tuple[float, float]:
    if image.mode.startswith("I;16"):
        return 0.0, float((1 << int(_tiff_tag(image, _BITS_PER_SAMPLE) or 16)) - 1)
    ranges = ((_tiff_tag(image, first), _tiff_tag(image, last)) for first, last in _TIFF_RANGES)
    stated = next(((low, high) for low, high in ranges if low is not None and high is not None), None)
    if stated is None:
        if image.mode == "F" and values.size and np.min(values) >= 0 and np.max(values) <= 1:
            return 0.0, 1.0
    elif np.isfinite([*stated]).all() and stated[0] < stated[1] and np.isfinite(values).all():
        return stated
    smallest, largest = (values.min(), values.max()) if values.size else (math.nan, math.nan)
    found = f"mode {image.mode} with values from {smallest:g} to {largest:g}"
    stated_as = "without a stated range" if stated is None else f"in the stated range {stated[0]:g} to {stated[1]:g}"
    raise SampleFault("image_range_unknown", f"{found} {stated_as}: the values of black and white are unknown")


def _tiff_tag(image: Image.Image, number: int) -> float | None:
    """The value of a TIFF tag that holds one number; `None` if it is absent or the image is no TIFF."""
    value: Any = getattr(image, "tag_v2", {}).get(number)
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    try:
        return None if value is None or isinstance(value, bytes | str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
