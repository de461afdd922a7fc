"""Decoding against blends computed by hand."""

import contextlib
import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images import decoding
from data_modules.images.decoding import decode, decode_image, open_image, to_array, to_picture

_GENERATOR = np.random.default_rng(0)
RGBA = _GENERATOR.integers(0, 256, (6, 5, 4), dtype=np.uint8)
GREY = _GENERATOR.integers(0, 256, (6, 5), dtype=np.uint8)


def _bytes(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _blend(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return colour * share + np.array(background) * (1 - share)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_decode_image__rgba_is_blended(background: tuple[int, int, int]) -> None:
    decoded = decode_image(_bytes(Image.fromarray(RGBA)), background)
    assert decoded.mode == "RGB"
    expected = _blend(RGBA[..., :3], RGBA[..., 3], background)
    assert np.abs(np.asarray(decoded) - expected).max() <= 0.5 + 1e-9, "rounded to the nearest"


def test_decode_image__default_background_is_white() -> None:
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    assert np.asarray(decode_image(_bytes(Image.fromarray(clear)))).tolist() == [[[255] * 3] * 2] * 2


def test_decode_image__grey_with_alpha() -> None:
    alpha = RGBA[..., 3]
    data = _bytes(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]))
    expected = _blend(np.repeat(GREY[..., None], 3, axis=2), alpha, (0, 0, 255))
    assert np.abs(np.asarray(decode_image(data, (0, 0, 255))) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_decode_image__palette_with_transparency(file_format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putpixel((1, 0), 1)
    data = _bytes(image, file_format, transparency=1)
    assert np.asarray(decode_image(data, (1, 2, 3))).tolist() == [[[200, 0, 0], [1, 2, 3]]]


def test_decode_image__rgb_with_one_transparent_colour() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (50, 60, 70))
    data = _bytes(image, transparency=(9, 9, 9))
    assert np.asarray(decode_image(data, (1, 2, 3))).tolist() == [[[1, 2, 3], [50, 60, 70]]]


def test_decode_image__rgb_and_grey_keep_their_pixels() -> None:
    assert np.array_equal(decode_image(_bytes(Image.fromarray(RGBA[..., :3]))), RGBA[..., :3])
    assert np.array_equal(decode_image(_bytes(Image.fromarray(GREY))), np.repeat(GREY[..., None], 3, axis=2))


def test_decode_image__cmyk() -> None:
    data = _bytes(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF")
    assert np.asarray(decode_image(data))[0, 0].tolist() == [0, 255, 255]


def test_decode_image__one_bit() -> None:
    data = _bytes(Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE))
    assert np.array_equal(np.asarray(decode_image(data))[..., 0], np.where(GREY > 127, 255, 0))


DEEP = _GENERATOR.integers(0, 1 << 16, (6, 5), dtype=np.uint16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "mode"),
    [*[(one, mode) for one in ("TIFF", "PNG") for mode in ("RGB", "L", "I;16")], ("JPEG", "RGB"), ("WEBP", "RGB")],
)
def test_open_image__size_of_every_orientation_is_that_of_the_decoded_picture(
    file_format: str, mode: str, orientation: int
) -> None:
    pixels = {"RGB": RGBA[..., :3], "L": GREY, "I;16": DEEP}[mode]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"tiffinfo": exif} if file_format == "TIFF" else {"exif": exif}
    encoded = open_image(_bytes(Image.fromarray(pixels), file_format, **options))
    turned = np.rot90(pixels, k={3: 2, 6: -1, 8: 1}.get(orientation, 0))
    picture = to_picture(decode(encoded))
    assert picture.size == (encoded.width, encoded.height) == ((6, 5) if orientation >= 5 else (5, 6))
    if orientation in (1, 3, 6, 8) and file_format in ("TIFF", "PNG"):
        expected = np.round(turned / 257.0) if mode == "I;16" else turned
        assert np.array_equal(np.asarray(picture)[..., 0], expected[..., 0] if expected.ndim == 3 else expected)


def test_decode__a_machine_without_memory_is_no_fault_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    encoded = open_image(_bytes(Image.fromarray(GREY)))
    monkeypatch.setattr(decoding, "flatten_image", exhausted)
    with pytest.raises(MemoryError):
        decode(encoded)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP"])
def test_decode_image__garbage(data: bytes) -> None:
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(data)


def test_decode_image__truncated() -> None:
    data = _bytes(Image.fromarray(_GENERATOR.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(data[: len(data) // 2])


def test_decode_image__more_pixels_than_pillow_dares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(_bytes(Image.fromarray(GREY)))


@given(data=st.data(), file_format=st.sampled_from(["PNG", "WEBP", "GIF", "JPEG", "TIFF"]))
@settings(max_examples=80, deadline=None)
def test_decode_image__damaged_bytes_decode_or_raise_data_error(data: st.DataObject, file_format: str) -> None:
    whole = bytearray(_bytes(Image.fromarray(RGBA[..., :3]), file_format))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged header may ask for gigabytes
        with contextlib.suppress(DataError):
            assert decode_image(bytes(whole)).mode == "RGB"


def test_to_array__channels_first() -> None:
    array = to_array(Image.fromarray(RGBA[..., :3]))
    assert array.dtype == np.uint8
    assert array.shape == (3, 6, 5)
    assert array[2, 4, 1] == RGBA[4, 1, 2]


def _photo(width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    return _bytes(image, "JPEG", quality=92, **options)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 48), (61, 47), (7, 5)])
def test_decode__a_plain_jpeg_has_pillows_pixels(size: tuple[int, int], mode: str) -> None:
    data = _photo(*size, mode)
    pixels = decode(open_image(data))
    assert isinstance(pixels, torch.Tensor)
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


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
    assert isinstance(found, torch.Tensor)
    assert isinstance(alone, torch.Tensor)
    assert found.shape == alone.shape == (3, -(-size[1] // reduction), -(-size[0] // reduction))
    assert torch.equal(found, alone)


def test_decode__reduced_pixels_are_means_of_the_whole_ones() -> None:
    data = _photo(640, 480)
    whole = decode(open_image(data)).double()
    small = decode(open_image(data), reduction=4).double()
    means = whole.reshape(3, 120, 4, 160, 4).mean(dim=(2, 4))
    assert (means - small).abs().mean() < 1.0


def test_open_image__size_before_decoding_and_after_rotation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(_photo(40, 30, exif=exif))
    assert (image.width, image.height, image.is_plain_jpeg) == (30, 40, False)
    upright = decode(image)
    expected = np.rot90(np.asarray(Image.open(io.BytesIO(_photo(40, 30)))), k=-1)
    assert np.array_equal(np.asarray(upright), expected)


@pytest.mark.parametrize(
    ("name", "repairs"), [("a.jpg", []), ("A.JPEG", []), ("", []), ("a", []), ("a.png", ["wrong_extension"])]
)
def test_open_image__ending_against_content(name: str, repairs: list[str]) -> None:
    found: list[str] = []
    open_image(_photo(8, 8), name, found)
    assert found == repairs


def test_open_image__limit_of_pixels() -> None:
    open_image(_photo(20, 10), max_pixels=200)
    with pytest.raises(SampleFault, match="20 x 10 pixels; the limit is 199") as raised:
        open_image(_photo(20, 10), max_pixels=199)
    assert raised.value.kind == "image_too_large"


def test_open_image__formats_that_start_other_programs_are_refused() -> None:
    with pytest.raises(SampleFault, match="no known format"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
