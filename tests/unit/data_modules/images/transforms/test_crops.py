"""Backgrounds and crop boxes by their distribution, crops against Pillow's crop and resize."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.images.config import Background
from data_modules.images.decoding import WHITE, EncodedImage, decode_image, open_image
from data_modules.images.transforms.crops import (
    Crop,
    CropDistribution,
    SampledCrops,
    choose_reduction,
    empty_crops,
    sample_background,
    sample_box,
    slots_by_image,
    write_crops,
)
from tests.unit.data_modules.one_by_one import background_of, box_of

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(("background", "low", "high"), [("white", 255, 255), ("light", 192, 255), ("random", 0, 255)])
def test_sample_background__range(background: str, low: int, high: int) -> None:
    generator = np.random.default_rng(0)
    colours = np.array([sample_background(Background(background), generator) for _ in range(3000)])
    assert colours.min(axis=0).tolist() == [low] * 3
    assert colours.max(axis=0).tolist() == [high] * 3


def test_background__members_are_spelled_as_in_yaml() -> None:
    assert [member.name for member in Background] == [member.value for member in Background]


def test_sample_background__the_setting_does_not_move_the_stream() -> None:
    following = []
    for background in Background:
        generator = np.random.default_rng(7)
        sample_background(background, generator)
        following.append(generator.random())
    assert following == [following[0]] * 3


@pytest.mark.parametrize("background", list(Background))
def test_sample_background__is_three_integers_of_the_stream(background: Background) -> None:
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(500):
        assert sample_background(background, ours) == background_of(background, theirs)
        # The stream stands at the same place, in the middle of a 64-bit word too.
        assert ours.random(3, dtype=np.float32).tolist() == theirs.random(3, dtype=np.float32).tolist()


@given(
    sides=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    scales=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_sample_box__is_four_uniform_numbers_of_the_stream(
    sides: tuple[int, int], scales: tuple[float, float], seed: int
) -> None:
    ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
    assert sample_box(*sides, min(scales), max(scales), ours) == box_of(*sides, min(scales), max(scales), theirs)
    assert ours.random() == theirs.random()


@given(
    width=st.integers(1, 800),
    height=st.integers(1, 800),
    scales=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_sample_box__inside_the_image_and_not_larger_than_allowed(
    width: int, height: int, scales: tuple[float, float], seed: int
) -> None:
    left, top, right, bottom = sample_box(width, height, min(scales), max(scales), np.random.default_rng(seed))
    assert 0 <= left < right <= width * (1 + 1e-12)
    assert 0 <= top < bottom <= height * (1 + 1e-12)
    assert (right - left) * (bottom - top) <= max(scales) * width * height * (1 + 1e-9)


def test_sample_box__area_and_aspect_of_boxes_that_fit() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([sample_box(100, 100, 0.2, 0.5, generator) for _ in range(5000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, log_aspect = width * height / 1e4, np.log(width / height)
    assert share.min() == pytest.approx(0.2, abs=1e-3)
    assert share.max() == pytest.approx(0.5, abs=1e-3)
    assert share.mean() == pytest.approx(0.35, abs=0.005)
    assert np.abs(log_aspect).max() == pytest.approx(np.log(4 / 3), abs=1e-3)
    assert abs(log_aspect.mean()) < 0.01
    assert boxes[:, 0].min() < 1
    assert boxes[:, 2].max() > 99


def test_sample_box__whole_image_is_cut_by_its_aspect_at_most() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([sample_box(100, 100, 1.0, 1.0, generator) for _ in range(500)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e4
    assert shares.min() >= np.sqrt(3 / 4)
    assert shares.max() <= 1


def pillow_crop(image: Image.Image, crop: Crop) -> np.ndarray:
    cut = image.resize((crop.size, crop.size), Image.Resampling.BICUBIC, box=crop.box)
    pixels = np.asarray(cut).transpose(2, 0, 1)
    return pixels[:, :, ::-1] if crop.flip else pixels


def _cut(image: EncodedImage, crops: list[Crop]) -> list[np.ndarray]:
    slots = [torch.zeros(3, crop.size, crop.size, dtype=torch.uint8) for crop in crops]
    write_crops(SampledCrops(image, crops, WHITE, choose_reduction(crops), np.random.default_rng(0)), slots)
    return [slot.numpy() for slot in slots]


def _jpeg(width: int, height: int) -> EncodedImage:
    small = Image.fromarray(np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return open_image(buffer.getvalue())


@pytest.mark.parametrize(
    ("sides", "reduction"),
    [
        ([(100, 100)], 1),
        ([(192, 192)], 2),
        ([(191, 500)], 1),
        ([(800, 800)], 8),
        ([(9000, 9000)], 8),
        ([(800, 800), (400, 400)], 4),
        ([(10, 10)], 1),
        ([], 1),
    ],
)
def test_choose_reduction__no_crop_is_enlarged_by_it(sides: list[tuple[int, int]], reduction: int) -> None:
    assert choose_reduction([Crop((0, 0, *side), 96, flip=False) for side in sides]) == reduction


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(320, 240), (1280, 960)])
def test_write_crops__crops_of_a_jpeg_are_close_to_pillows(size: tuple[int, int], flip: bool) -> None:
    width, height = size
    image = _jpeg(width, height)
    crops = [
        Crop((0.1 * width, 0.05 * height, 0.9 * width, 0.95 * height), 64, flip),
        Crop((0.5 * width, 0.25 * height, 0.8 * width, 0.65 * height), 32, flip),
    ]
    whole = decode_image(image.data)
    for crop, cut in zip(crops, _cut(image, crops), strict=True):
        exact = pillow_crop(whole, crop)
        assert (cut.shape, cut.dtype) == (exact.shape, exact.dtype)
        assert np.abs(cut.astype(int) - exact).mean() < 2.0
        assert np.abs(cut[:, :, ::-1].astype(int) - exact).mean() > 8.0, "not mirrored by mistake"


@given(
    width=st.integers(1, 90), height=st.integers(1, 90), size=st.sampled_from([1, 8, 33]), seed=st.integers(0, 2**32)
)
@settings(max_examples=60, deadline=None)
def test_write_crops__any_box_of_any_jpeg(width: int, height: int, size: int, seed: int) -> None:
    box = sample_box(width, height, 0.01, 1.0, np.random.default_rng(seed))
    cut = _cut(_jpeg(width, height), [Crop(box, size, flip=False)])
    assert cut[0].shape == (3, size, size)


def test_empty_crops__slots_are_views_with_adjacent_channels() -> None:
    crops = empty_crops([CropDistribution(number, size, 0.5, 1.0, 0.0) for number, size in ((2, 6), (0, 4), (1, 3))], 5)
    assert [tuple(one.shape) for one in crops] == [(2, 5, 3, 6, 6), (0, 5, 3, 4, 4), (1, 5, 3, 3, 3)]
    assert {one.dtype for one in crops} == {torch.uint8}
    assert [one.stride(2) for one in crops] == [1, 1, 1]
    for place, of_image in enumerate(slots_by_image(crops)):
        for number, slot in enumerate(of_image):
            slot.fill_(10 * place + number)
    for place in range(5):
        for number, crop in enumerate((crops[0][0, place], crops[0][1, place], crops[2][0, place])):
            assert crop.unique().tolist() == [10 * place + number]
