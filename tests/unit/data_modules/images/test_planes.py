"""Planes against the formulas of JFIF in NumPy, and against the JPEGs and pictures that they were made of."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.faults import SampleFault
from data_modules.images.decoding import PLANES, decode, decode_image, jpeg_ycbcr, open_image
from data_modules.images.planes import MAGIC, decode_planes, encode_planes, file_size, planes_size

SIDES = st.integers(1, 40)


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Pixels at random, in mode YCbCr."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.frombytes("YCbCr", (width, height), pixels.tobytes())


def _smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def _blocks(image: Image.Image) -> np.ndarray:
    """float64 (rows, columns, 2, 2, 3), the last row and column of odd sides repeated."""
    pixels = np.asarray(image).astype(float)
    height, width, _ = pixels.shape
    pixels = pixels[np.minimum(np.arange(height + height % 2), height - 1)]
    pixels = pixels[:, np.minimum(np.arange(width + width % 2), width - 1)]
    return pixels.reshape(pixels.shape[0] // 2, 2, -1, 2, 3).swapaxes(1, 2)


def _rgb(ycbcr: np.ndarray) -> np.ndarray:
    """ITU-T T.871, sec. 7, not rounded."""
    y, cb, cr = ycbcr[..., 0], ycbcr[..., 1] - 128, ycbcr[..., 2] - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(rgb, 0, 255)


def _subsampled(image: Image.Image) -> np.ndarray:
    """The YCbCr that planes keep of an image: each block has its mean colour, rounded half up."""
    blocks = _blocks(image)
    blocks[..., 1:] = np.floor(blocks[..., 1:].mean(axis=(2, 3), keepdims=True) + 0.5)
    rows, columns = blocks.shape[:2]
    return blocks.swapaxes(1, 2).reshape(2 * rows, 2 * columns, 3)[: image.height, : image.width]


@given(width=SIDES, height=SIDES, seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_decode_planes__is_the_formula_within_one(width: int, height: int, seed: int) -> None:
    image = _noise(width, height, seed)
    data = encode_planes(image)
    assert planes_size(data) == (width, height)
    assert len(data) == file_size(width, height)
    pixels = decode_planes(data)
    assert (pixels.shape, pixels.dtype) == ((height, width, 3), np.uint8)
    assert np.abs(pixels - _rgb(_subsampled(image))).max() <= 1


def test_decode_planes__every_brightness_and_colour_is_the_formula_within_one() -> None:
    values = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(values, values, values, indexing="ij"), axis=-1).reshape(-1, 1, 1, 3)
    pixels = np.broadcast_to(colours, (len(colours), 2, 2, 3)).reshape(-1, 2, 3)
    image = Image.frombytes("YCbCr", (2, len(pixels)), pixels.tobytes())
    difference = decode_planes(encode_planes(image)) - _rgb(pixels.astype(float))
    assert np.abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.05


def test_encode_planes__layout_of_the_file() -> None:
    image = _noise(5, 3)
    data, blocks = encode_planes(image), _blocks(image)
    assert data[:8] == MAGIC
    assert struct.unpack_from("<II", data, 8) == (5, 3)
    planes = np.frombuffer(data, np.uint8, offset=16).reshape(6, 2, 3)
    for number, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        assert np.array_equal(planes[number], blocks[:, :, row, column, 0])
    assert np.array_equal(planes[4:], np.floor(blocks[..., 1:].mean(axis=(2, 3)) + 0.5).transpose(2, 0, 1))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
@pytest.mark.parametrize("size", [(64, 48), (61, 47), (341, 256)])
def test_planes__of_a_jpeg_differ_from_its_own_decoding_by_the_colour_inside_blocks_alone(
    size: tuple[int, int], options: dict[str, object]
) -> None:
    """|difference| <= 2 + factor x (distance of the pixel's colour from its block's mean), by channel."""
    data = _jpeg(_smooth(*size), **options)
    stored = jpeg_ycbcr(open_image(data))
    assert stored is not None
    colours = np.asarray(stored).astype(float)
    cb, cr = np.moveaxis(np.abs(colours - _subsampled(stored)), -1, 0)[1:]
    bound = 2 + np.stack([1.402 * cr, 0.344136 * cb + 0.714136 * cr, 1.772 * cb], axis=-1)
    difference = np.abs(decode_planes(encode_planes(stored)) - np.asarray(decode_image(data)).astype(float))
    assert (difference <= bound).all()
    if size[0] == 341:
        assert difference.mean() < 1.5
        assert np.quantile(difference, 0.999) <= 8


def test_jpeg_ycbcr__is_what_the_file_stores() -> None:
    image = _smooth(50, 40)
    stored = jpeg_ycbcr(open_image(_jpeg(image, subsampling=0)))
    assert stored is not None
    assert (stored.mode, stored.size) == ("YCbCr", (50, 40))
    assert np.abs(np.asarray(stored).astype(int) - np.asarray(image.convert("YCbCr"))).mean() < 2
    assert jpeg_ycbcr(open_image(_jpeg(image.convert("L")))) is None
    assert jpeg_ycbcr(open_image(_jpeg(image, keep_rgb=True))) is None
    assert jpeg_ycbcr(open_image(_jpeg(image)[:-200])) is None


@pytest.mark.parametrize("cut", [8, 15, 16, 100, -1])
def test_open_image__cut_planes_are_a_fault(cut: int) -> None:
    with pytest.raises(SampleFault, match=r"not a readable image: (planes of 20 x 10|the header of planes has 16)"):
        open_image(encode_planes(_noise(20, 10))[:cut])


def test_open_image__planes_of_no_size_or_too_many_bytes_are_a_fault() -> None:
    for data in (MAGIC + bytes(8), MAGIC + struct.pack("<II", 3, 0), encode_planes(_noise(4, 4)) + b"x"):
        with pytest.raises(SampleFault, match="image_undecodable"):
            open_image(data)


def test_open_image__of_planes() -> None:
    data, repairs = encode_planes(_noise(21, 10)), list[str]()
    image = open_image(data, "a.yuv", repairs)
    assert (image.width, image.height, image.is_plain_jpeg, repairs) == (21, 10, False, [])
    assert np.array_equal(decode(image), decode_planes(data))
    assert image.reduced_size(4) == (10, 21), "planes are not reduced"
    open_image(data, "a.jpg", repairs)
    assert repairs == ["wrong_extension"]
    with pytest.raises(SampleFault, match="21 x 10 pixels; the limit is 209"):
        open_image(data, max_pixels=209)
    assert decode_image(data).size == (21, 10)
    assert planes_size(b"\xff\xd8") is None
    assert PLANES not in Image.registered_extensions().values()


def test_encode_planes__refuses_other_colours() -> None:
    with pytest.raises(ValueError, match="in mode YCbCr, not RGB"):
        encode_planes(Image.new("RGB", (4, 4)))
