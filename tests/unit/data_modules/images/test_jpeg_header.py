"""The quick reading of JPEG headers against Pillow's."""

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.images.decoding import open_image
from data_modules.images.jpeg_header import plain_jpeg_size

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))


def _saved(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"dpi": (300, 300)},
        {"comment": b"a comment"},
        {"icc_profile": b"x" * 100_000},
        {"restart_marker_blocks": 2},
        {"keep_rgb": True},
    ],
)
def test_plain_jpeg_size__is_pillows(options: dict[str, object]) -> None:
    assert plain_jpeg_size(_saved(PICTURE, **options)) == PICTURE.size


def test_plain_jpeg_size__grey() -> None:
    assert plain_jpeg_size(_saved(PICTURE.convert("L"))) == PICTURE.size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8" + b"\xff" * 100,
        _saved(PICTURE, "PNG"),
        _saved(PICTURE.convert("CMYK")),
        _saved(PICTURE, exif=_exif(6)),
        _saved(PICTURE, exif=_exif(1)),
        _saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE]),
        _saved(PICTURE)[:100],
    ],
)
def test_plain_jpeg_size__leaves_the_rest_to_pillow(data: bytes) -> None:
    assert plain_jpeg_size(data) is None


def test_plain_jpeg_size__orientation_behind_the_frame_is_seen() -> None:
    data = _saved(PICTURE)
    exif = _exif(8).tobytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    scan = data.index(b"\xff\xda")
    data = data[:scan] + segment + data[scan:]
    assert plain_jpeg_size(data) is None
    assert (open_image(data).width, open_image(data).height) == PICTURE.size[::-1]


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_plain_jpeg_size__of_damaged_headers_is_pillows_or_none(data: st.DataObject) -> None:
    whole = bytearray(_saved(PICTURE, progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    size = plain_jpeg_size(bytes(whole))
    if size is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = Image.open(io.BytesIO(bytes(whole)), formats=["JPEG"])
        except Exception:  # a table is damaged: decoding will say so
            return
    assert (header.size, header.mode in ("RGB", "L")) == (size, True)
