"""Headers against Pillow's, pixels against blends and scalings computed with NumPy."""

import contextlib
import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images import decoding
from data_modules.images.decoding import (
    decode,
    decode_image,
    flatten_image,
    open_image,
    plain_jpeg_size,
    to_array,
    to_picture,
)

_GENERATOR = np.random.default_rng(0)
RGBA = _GENERATOR.integers(0, 256, (6, 5, 4), dtype=np.uint8)
GREY = _GENERATOR.integers(0, 256, (6, 5), dtype=np.uint8)
DEEP = _GENERATOR.integers(0, 1 << 16, (6, 5), dtype=np.uint16)
PHOTO = Image.fromarray(_GENERATOR.integers(0, 256, (30, 41, 3), dtype=np.uint8))
PHOTOMETRIC, SAMPLE_FORMAT, LOW, HIGH = 262, 339, 340, 341
"""TIFF tags; the last two are SMinSampleValue and SMaxSampleValue."""


def _bytes(image: Image.Image | np.ndarray, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def _photo(width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    return _bytes(image, "JPEG", quality=92, **options)


def _tiff(pixels: np.ndarray, tags: dict[int, float] | None = None) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        directory[tag] = value
        directory.tagtype[tag] = 12 if tag in (LOW, HIGH) else 3
    return _bytes(pixels, "TIFF", tiffinfo=directory)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _blend(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return colour * share + np.array(background) * (1 - share)


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
    assert plain_jpeg_size(_bytes(PHOTO, "JPEG", **options)) == PHOTO.size
    assert plain_jpeg_size(_bytes(PHOTO.convert("L"), "JPEG")) == PHOTO.size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8" + b"\xff" * 100,
        _bytes(PHOTO),
        _bytes(PHOTO.convert("CMYK"), "JPEG"),
        _bytes(PHOTO, "JPEG", exif=_exif(6)),
        _bytes(PHOTO, "JPEG", exif=_exif(1)),
        _bytes(PHOTO, "MPO", save_all=True, append_images=[PHOTO]),
        _bytes(PHOTO, "JPEG")[:100],
    ],
)
def test_plain_jpeg_size__leaves_the_rest_to_pillow(data: bytes) -> None:
    assert plain_jpeg_size(data) is None


def test_plain_jpeg_size__exif_after_the_frame_header_is_found() -> None:
    data, exif = _bytes(PHOTO, "JPEG"), _exif(8).tobytes()
    scan = data.index(b"\xff\xda")
    data = data[:scan] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[scan:]
    assert plain_jpeg_size(data) is None
    assert (open_image(data).width, open_image(data).height) == PHOTO.size[::-1]


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_plain_jpeg_size__of_damaged_headers_is_pillows_or_none(data: st.DataObject) -> None:
    whole = bytearray(_bytes(PHOTO, "JPEG", progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    size = plain_jpeg_size(bytes(whole))
    if size is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = Image.open(io.BytesIO(bytes(whole)), formats=["JPEG"])
        except Exception:  # a damaged table, which decoding reports
            return
    assert (header.size, header.mode in ("RGB", "L")) == (size, True)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "mode"),
    [*[(one, mode) for one in ("TIFF", "PNG") for mode in ("RGB", "L", "I;16")], ("JPEG", "RGB"), ("WEBP", "RGB")],
)
def test_open_image__size_of_every_orientation_is_that_of_the_decoded_picture(
    file_format: str, mode: str, orientation: int
) -> None:
    pixels = {"RGB": RGBA[..., :3], "L": GREY, "I;16": DEEP}[mode]
    encoded = open_image(
        _bytes(pixels, file_format, **{"tiffinfo" if file_format == "TIFF" else "exif": _exif(orientation)})
    )
    rotated = np.rot90(pixels, k={3: 2, 6: -1, 8: 1}.get(orientation, 0))
    picture = to_picture(decode(encoded))
    assert picture.size == (encoded.width, encoded.height) == ((6, 5) if orientation >= 5 else (5, 6))
    assert encoded.is_plain_jpeg == (file_format == "JPEG" and orientation == 1)
    if orientation in (1, 3, 6, 8) and file_format in ("TIFF", "PNG"):
        expected = np.round(rotated / 257.0) if mode == "I;16" else rotated
        assert np.array_equal(np.asarray(picture)[..., 0], expected[..., 0] if expected.ndim == 3 else expected)


@pytest.mark.parametrize(
    ("name", "repairs"), [("a.jpg", []), ("A.JPEG", []), ("", []), ("a", []), ("a.png", ["wrong_extension"])]
)
def test_open_image__extension_against_content(name: str, repairs: list[str]) -> None:
    found: list[str] = []
    open_image(_photo(8, 8), name, found)
    assert found == repairs


@pytest.mark.parametrize(("kind", "pixels"), [("image_16_bit", DEEP), ("image_32_bit", DEEP.astype(np.float32))])
def test_open_image__reports_deep_grey_before_decoding(kind: str, pixels: np.ndarray) -> None:
    repairs: list[str] = []
    open_image(_tiff(pixels), "a.tif", repairs)
    assert repairs == [kind]


def test_open_image__limit_of_pixels() -> None:
    open_image(_photo(20, 10), max_pixels=200)
    with pytest.raises(SampleFault, match="20 x 10 pixels; the limit is 199") as raised:
        open_image(_photo(20, 10), max_pixels=199)
    assert raised.value.kind == "image_too_large"


def test_open_image__formats_that_start_other_programs_are_refused() -> None:
    with pytest.raises(SampleFault, match="no known format"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_decode_image__alpha_is_blended(background: tuple[int, int, int]) -> None:
    alpha = RGBA[..., 3]
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    for image, colour in ((RGBA, RGBA[..., :3]), (grey, np.repeat(GREY[..., None], 3, axis=2))):
        decoded = decode_image(_bytes(image), background)
        assert decoded.mode == "RGB"
        difference = np.abs(np.asarray(decoded) - _blend(colour, alpha, background))
        assert difference.max() <= 0.5 + 1e-9, "rounded to the nearest"


def test_decode_image__default_background_is_white() -> None:
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    assert np.asarray(decode_image(_bytes(clear))).tolist() == [[[255] * 3] * 2] * 2


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_decode_image__palette_with_transparency(file_format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putpixel((1, 0), 1)
    data = _bytes(image, file_format, transparency=1)
    assert np.asarray(decode_image(data, (1, 2, 3))).tolist() == [[[200, 0, 0], [1, 2, 3]]]


def test_decode_image__one_transparent_colour() -> None:
    colours = np.array([[[9, 9, 9], [50, 60, 70]]], dtype=np.uint8)
    data = _bytes(colours, transparency=(9, 9, 9))
    assert np.asarray(decode_image(data, (1, 2, 3))).tolist() == [[[1, 2, 3], [50, 60, 70]]]
    data = _bytes(np.array([[0, 1000, 65535]], dtype=np.uint16), transparency=1000)
    assert np.asarray(decode_image(data, (1, 2, 3))).tolist() == [[[0, 0, 0], [1, 2, 3], [255, 255, 255]]]


def test_decode_image__modes_without_alpha() -> None:
    assert np.array_equal(decode_image(_bytes(RGBA[..., :3])), RGBA[..., :3])
    assert np.array_equal(decode_image(_bytes(GREY)), np.repeat(GREY[..., None], 3, axis=2))
    cmyk = _bytes(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF")
    assert np.asarray(decode_image(cmyk))[0, 0].tolist() == [0, 255, 255]
    one_bit = _bytes(Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE))
    assert np.array_equal(np.asarray(decode_image(one_bit))[..., 0], np.where(GREY > 127, 255, 0))


def test_decode__out_of_memory_is_no_fault_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    encoded = open_image(_bytes(GREY))
    monkeypatch.setattr(decoding, "flatten_image", exhausted)
    with pytest.raises(MemoryError):
        decode(encoded)


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP", _photo(64, 64)[:400]],
)
def test_decode_image__garbage_and_truncated_bytes(data: bytes) -> None:
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(data)


def test_decode_image__pillows_limit_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(_bytes(GREY))


@given(data=st.data(), file_format=st.sampled_from(["PNG", "WEBP", "GIF", "JPEG", "TIFF"]))
@settings(max_examples=80, deadline=None)
def test_decode_image__damaged_bytes_decode_or_raise_data_error(data: st.DataObject, file_format: str) -> None:
    whole = bytearray(_bytes(RGBA[..., :3], file_format))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged header may request gigabytes
        with contextlib.suppress(DataError):
            assert decode_image(bytes(whole)).mode == "RGB"


def test_to_array__channels_first() -> None:
    array = to_array(Image.fromarray(RGBA[..., :3]))
    assert (array.dtype, array.shape) == (np.uint8, (3, 6, 5))
    assert array[2, 4, 1] == RGBA[4, 1, 2]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 48), (61, 47), (7, 5)])
def test_decode__a_plain_jpeg_has_pillows_pixels(size: tuple[int, int], mode: str, options: dict[str, object]) -> None:
    data = _photo(*size, mode, **options)
    pixels = decode(open_image(data))
    assert isinstance(pixels, np.ndarray)
    assert pixels.dtype == np.uint8
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels, expected)
    assert np.array_equal(decode_image(data), expected)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(640, 480), (321, 203), (17, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decode__with_and_without_simplejpeg_alike_at_every_size(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], reduction: int, mode: str
) -> None:
    data = _photo(*size, mode)
    found = decode(open_image(data), reduction=reduction)
    monkeypatch.setattr(decoding, "_simplejpeg", lambda: None)
    alone = decode(open_image(data), reduction=reduction)
    assert isinstance(found, np.ndarray)
    assert isinstance(alone, np.ndarray)
    assert found.shape == alone.shape == (-(-size[1] // reduction), -(-size[0] // reduction), 3)
    assert np.array_equal(found, alone)


def test_decode__reduced_pixels_are_means_of_the_whole_ones() -> None:
    data = _photo(640, 480)
    whole, small = decode(open_image(data)), decode(open_image(data), reduction=4)
    means = whole.reshape(120, 4, 160, 4, 3).mean(axis=(1, 3))
    assert np.abs(means - small).mean() < 1.0


def _decoded_grey(data: bytes) -> np.ndarray:
    decoded = np.asarray(decode_image(data)).astype(int)
    assert (decoded == decoded[..., :1]).all()
    return decoded[..., 0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_bytes(DEEP), np.round(DEEP / 257.0)),
        (_bytes(DEEP, "TIFF"), np.round(DEEP / 257.0)),
        (_bytes(Image.frombytes("I;16B", (5, 6), DEEP.astype(">u2").tobytes()), "TIFF"), np.round(DEEP / 257.0)),
        (_tiff(DEEP, {PHOTOMETRIC: 0}), 255 - np.round(DEEP / 257.0)),
    ],
    ids=["png", "tiff", "big-endian", "white is zero"],
)
def test_decode_image__sixteen_bit_grey_is_divided_by_257(data: bytes, expected: np.ndarray) -> None:
    assert np.array_equal(_decoded_grey(data), expected)


def test_decode_image__floats_from_zero_to_one() -> None:
    shares = _GENERATOR.random((6, 5), dtype=np.float32)
    assert np.array_equal(_decoded_grey(_tiff(shares)), np.round(shares.astype(np.float64) * 255))


@pytest.mark.parametrize("kind", ["float32", "int32", "uint32"])
def test_decode_image__thirty_two_bits_are_scaled_from_the_range_of_the_tags(kind: str) -> None:
    low, high = {"float32": (-3.0, 9.0), "int32": (-70_000, 90_000), "uint32": (5, 4_000_000_000)}[kind]
    pixels = _GENERATOR.uniform(low, high, (6, 5)).astype(kind)
    stored = pixels.view(np.int32) if kind == "uint32" else pixels
    data = _tiff(stored, {LOW: low, HIGH: high})
    if kind == "uint32":  # Pillow writes only signed values
        signed, unsigned = (struct.pack("<HHIH", SAMPLE_FORMAT, 3, 1, number) for number in (2, 1))
        assert data.count(signed) == 1
        data = data.replace(signed, unsigned)
    expected = np.round((pixels.astype(np.float64) - low) / (high - low) * 255)
    assert np.array_equal(_decoded_grey(data), expected)
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
    with pytest.raises(SampleFault, match=f"mode {mode} with values from .* without a stated range") as raised:
        decode(open_image(_tiff(pixels)))
    assert raised.value.kind == "image_range_unknown"
    with pytest.raises(SampleFault, match=f"mode {mode}"):
        flatten_image(Image.fromarray(pixels))


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_decode_image__an_invalid_range_is_a_fault(low: float, high: float) -> None:
    with pytest.raises(SampleFault, match=r"mode F .* in the stated range"):
        decode_image(_tiff(np.zeros((2, 2), dtype=np.float32), {LOW: low, HIGH: high}))


def test_flatten_image__sixteen_bits_keep_black_grey_and_white() -> None:
    picture = Image.fromarray(np.array([[0, 128, 129, 257 * 100, 65_535]], dtype=np.uint16))
    assert np.asarray(flatten_image(picture))[..., 0].tolist() == [[0, 0, 1, 100, 255]]
