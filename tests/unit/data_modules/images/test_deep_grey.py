"""Deep grey against the same scaling in NumPy, alone and through whole files."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from data_modules.faults import SampleFault
from data_modules.images.decoding import decode, decode_image, open_image
from data_modules.images.deep_grey import is_deep_grey, to_eight_bits

_GENERATOR = np.random.default_rng(0)
DEEP = _GENERATOR.integers(0, 1 << 16, (6, 5), dtype=np.uint16)
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339
LOW, HIGH = 340, 341
"""TIFF's SMinSampleValue and SMaxSampleValue."""


def _bytes(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _tiff(pixels: np.ndarray, tags: dict[int, float] | None = None) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        directory[tag] = value
        directory.tagtype[tag] = 12 if tag in (LOW, HIGH) else 3
    return _bytes(Image.fromarray(pixels), "TIFF", tiffinfo=directory)


def _grey(data: bytes) -> np.ndarray:
    decoded = np.asarray(decode_image(data)).astype(int)
    assert (decoded == decoded[..., :1]).all()
    return decoded[..., 0]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_decode_image__sixteen_bit_grey_is_divided_by_257(file_format: str) -> None:
    data = _bytes(Image.fromarray(DEEP), file_format)
    assert np.array_equal(_grey(data), np.round(DEEP / 257.0))


def test_decode_image__sixteen_bit_grey_of_the_other_byte_order() -> None:
    image = Image.frombytes("I;16B", (5, 6), DEEP.astype(">u2").tobytes())
    assert np.array_equal(_grey(_bytes(image, "TIFF")), np.round(DEEP / 257.0))


def test_decode_image__sixteen_bit_grey_whose_white_is_zero() -> None:
    assert np.array_equal(_grey(_tiff(DEEP, {PHOTOMETRIC: 0})), 255 - np.round(DEEP / 257.0))


def test_decode_image__sixteen_bit_grey_with_one_transparent_value() -> None:
    data = _bytes(Image.fromarray(np.array([[0, 1000, 65535]], dtype=np.uint16)), transparency=1000)
    assert np.asarray(decode_image(data, (1, 2, 3))).tolist() == [[[0, 0, 0], [1, 2, 3], [255, 255, 255]]]


def test_decode_image__floats_from_zero_to_one() -> None:
    shares = _GENERATOR.random((6, 5), dtype=np.float32)
    assert np.array_equal(_grey(_tiff(shares)), np.round(shares.astype(np.float64) * 255))


@pytest.mark.parametrize("kind", ["float32", "int32", "uint32"])
def test_decode_image__thirty_two_bits_in_the_range_that_the_file_states(kind: str) -> None:
    low, high = {"float32": (-3.0, 9.0), "int32": (-70_000, 90_000), "uint32": (5, 4_000_000_000)}[kind]
    pixels = _GENERATOR.uniform(low, high, (6, 5)).astype(kind)
    stored = pixels.view(np.int32) if kind == "uint32" else pixels
    data = _tiff(stored, {LOW: low, HIGH: high})
    if kind == "uint32":  # Pillow writes signed ones alone
        signed, unsigned = (struct.pack("<HHIH", SAMPLE_FORMAT, 3, 1, number) for number in (2, 1))
        assert data.count(signed) == 1
        data = data.replace(signed, unsigned)
    expected = np.round((pixels.astype(np.float64) - low) / (high - low) * 255)
    assert np.array_equal(_grey(data), expected)
    assert len(np.unique(expected)) > 10


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        (np.array([[0.0, 255.0]], dtype=np.float32), "F"),
        (np.array([[-0.5, 1.0]], dtype=np.float32), "F"),
        (np.array([[0.0, np.nan]], dtype=np.float32), "F"),
        (np.array([[0.0, np.inf]], dtype=np.float32), "F"),
        (np.array([[0, 255]], dtype=np.int32), "I"),
        (np.array([[0, 1 << 30]], dtype=np.int32), "I"),
    ],
)
def test_decode__thirty_two_bits_without_a_range_are_a_fault_that_names_the_mode(pixels: np.ndarray, mode: str) -> None:
    encoded = open_image(_tiff(pixels))
    with pytest.raises(SampleFault, match=f"mode {mode}") as raised:
        decode(encoded)
    assert raised.value.kind == "image_range_unknown"
    with pytest.raises(SampleFault, match=f"mode {mode}"):
        decode_image(_tiff(pixels))


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_decode_image__a_stated_range_that_is_none_is_a_fault(low: float, high: float) -> None:
    with pytest.raises(SampleFault, match="mode F"):
        decode_image(_tiff(np.zeros((2, 2), dtype=np.float32), {LOW: low, HIGH: high}))


def test_open_image__tells_deep_grey_before_decoding() -> None:
    for pixels, kind in ((DEEP, "image_16_bit"), (DEEP.astype(np.float32), "image_32_bit")):
        repairs: list[str] = []
        open_image(_tiff(pixels), "a.tif", repairs)
        assert repairs == [kind]


@pytest.mark.parametrize(
    ("mode", "deep"),
    [("I", True), ("I;16", True), ("I;16B", True), ("F", True), ("L", False), ("1", False), ("RGB", False)],
)
def test_is_deep_grey(mode: str, deep: bool) -> None:
    assert is_deep_grey(mode) == deep


def test_to_eight_bits__sixteen_bits_keep_black_grey_and_white() -> None:
    picture = Image.fromarray(np.array([[0, 128, 129, 257 * 100, 65_535]], dtype=np.uint16))
    scaled = to_eight_bits(picture)
    assert scaled.mode == "L"
    assert np.asarray(scaled).tolist() == [[0, 0, 1, 100, 255]]


def test_to_eight_bits__picture_in_memory_without_a_range() -> None:
    with pytest.raises(SampleFault, match="mode I with values from 0 to 9 without a stated range"):
        to_eight_bits(Image.fromarray(np.arange(10, dtype=np.int32).reshape(2, 5)))
