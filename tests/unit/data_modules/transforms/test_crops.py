"""Crop boxes by their distribution, cuts against Pillow's crop and resize."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.transforms.crops import crop_resized, draw_box

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@given(
    width=st.integers(1, 800),
    height=st.integers(1, 800),
    scales=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_draw_box__inside_the_image_and_not_larger_than_allowed(
    width: int, height: int, scales: tuple[float, float], seed: int
) -> None:
    left, top, right, bottom = draw_box(width, height, min(scales), max(scales), np.random.default_rng(seed))
    assert 0 <= left < right <= width * (1 + 1e-12)
    assert 0 <= top < bottom <= height * (1 + 1e-12)
    assert (right - left) * (bottom - top) <= max(scales) * width * height * (1 + 1e-9)


def test_draw_box__area_and_aspect_of_boxes_that_fit() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([draw_box(100, 100, 0.2, 0.5, generator) for _ in range(5000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, log_aspect = width * height / 1e4, np.log(width / height)
    assert share.min() == pytest.approx(0.2, abs=1e-3)
    assert share.max() == pytest.approx(0.5, abs=1e-3)
    assert share.mean() == pytest.approx(0.35, abs=0.005)
    assert np.abs(log_aspect).max() == pytest.approx(np.log(4 / 3), abs=1e-3)
    assert abs(log_aspect.mean()) < 0.01
    assert boxes[:, 0].min() < 1
    assert boxes[:, 2].max() > 99


def test_draw_box__whole_image_is_cut_by_its_aspect_at_most() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([draw_box(100, 100, 1.0, 1.0, generator) for _ in range(500)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e4
    assert shares.min() >= np.sqrt(3 / 4)
    assert shares.max() <= 1


def test_draw_box__deterministic() -> None:
    boxes = [draw_box(50, 40, 0.1, 1.0, np.random.default_rng(3)) for _ in range(2)]
    assert boxes[0] == boxes[1]


@pytest.mark.parametrize("size", [16, 32, 40])
def test_crop_resized__equals_crop_then_resize(size: int) -> None:
    box = (8, 4, 40, 36)
    image = Image.fromarray(PIXELS)
    expected = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    cut = crop_resized(image, box, size)
    assert cut.dtype == np.uint8
    assert cut.shape == (3, size, size)
    # Pillow's box resampling sees the pixels beyond the box's edge, crop does not.
    assert np.abs(cut[:, 4:-4, 4:-4].astype(int) - expected[:, 4:-4, 4:-4]).max() <= 1


def test_crop_resized__same_size_is_the_cut_itself() -> None:
    cut = crop_resized(Image.fromarray(PIXELS), (8, 4, 40, 36), 32)
    assert np.array_equal(cut, PIXELS[4:36, 8:40].transpose(2, 0, 1))


def test_crop_resized__strong_reduction_stays_close_to_the_exact_one() -> None:
    y, x = np.mgrid[0:480, 0:640]
    smooth = Image.fromarray(np.stack([x * 255 // 640, y * 255 // 480, (x + y) * 255 // 1120], axis=2).astype(np.uint8))
    box = (13.3, 7.7, 600.2, 470.1)
    exact = np.asarray(smooth.resize((24, 24), Image.Resampling.BICUBIC, box=box)).transpose(2, 0, 1)
    assert np.abs(crop_resized(smooth, box, 24).astype(int) - exact).max() <= 2


def test_crop_resized__flip_mirrors_left_and_right() -> None:
    image, box = Image.fromarray(PIXELS), (3.5, 2.25, 50.0, 40.0)
    assert np.array_equal(crop_resized(image, box, 20, flip=True), crop_resized(image, box, 20)[:, :, ::-1])
