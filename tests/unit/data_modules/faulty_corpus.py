"""Members of a shard with every fault that one sample can have."""

import io
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.unit.data_modules.corpora import members, picture, samples


def _saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 20000 x 20000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(Image.open(io.BytesIO(picture(1))), "JPEG", exif=exif)


RGB = Image.open(io.BytesIO(picture(2)))
DEEP = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160)
SHARES = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)

IMAGES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "image_undecodable": ("jpg", lambda: picture(3)[:300]),
    "image_undecodable ": ("jpg", lambda: b"<html>404 not found</html>"),
    "image_missing": ("jpg", lambda: b""),
    "image_too_large": ("png", _bomb),
    "image_cmyk": ("jpg", lambda: _saved(RGB.convert("CMYK"), "JPEG")),
    "image_16_bit": ("png", lambda: _saved(DEEP, "PNG")),
    "image_32_bit": ("tif", lambda: _saved(Image.fromarray(SHARES), "TIFF")),
    "image_range_unknown": ("tif", lambda: _saved(Image.fromarray(SHARES * 99), "TIFF")),
    "image_palette": ("png", lambda: _saved(RGB.convert("P"), "PNG")),
    "image_animated": ("webp", lambda: _saved(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)])),
    "image_rotated": ("jpg", _rotated),
    "wrong_extension": ("jpg", lambda: picture(4, file_format="PNG")),
}
CAPTIONS: dict[str, bytes] = {
    "caption_missing": b"",
    "caption_missing ": b"  \n ",
    "caption_cut": b"long " * 20_000,
    "caption_not_utf8": "좋은".encode("cp949") + b" text",
    "caption_not_nfc": unicodedata.normalize("NFD", "한글 사진").encode(),
}


def faulty_members(num_good: int, per_kind: int) -> tuple[list[tuple[str, bytes]], Counter[str]]:
    """Every fault `per_kind` times behind good samples, and the counts to be found."""
    content, expected = list(members(samples(num_good))), Counter[str]()
    for number in range(per_kind):
        for kind, (ending, image) in IMAGES.items():
            key = f"{kind.strip()}-{len(kind)}-{number}"
            content += [(f"{key}.{ending}", image()), (f"{key}.txt", b"an odd image")]
            expected[kind.strip()] += 1
        for kind, caption in CAPTIONS.items():
            key = f"{kind.strip()}-{len(kind)}-{number}"
            content += [(f"{key}.jpg", picture(number)), (f"{key}.txt", caption)]
            expected[kind.strip()] += 1
    return content, expected
