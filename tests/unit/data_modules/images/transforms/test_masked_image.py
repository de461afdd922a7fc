"""The crop and the noise of MAE pre-training."""

from typing import Any

import numpy as np
import pytest

from data_modules.images.config import Background, MaskedImageConfig
from data_modules.images.decoding import open_image
from data_modules.images.transforms.crops import CutWriter, write_crops
from data_modules.images.transforms.masked_image import MaskedImage


def _apply(picture: bytes, seed: int = 0, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    transform = MaskedImage(MaskedImageConfig(**{"image_size": 32} | options), num_patches=5000)
    noise, writer = np.empty(5000, dtype=np.float32), CutWriter(transform.distributions, 1, write_crops)
    writer.write(0, transform.sample(open_image(picture), np.random.default_rng(seed), noise))
    return writer.crops[0][0, 0].numpy(), noise


def test_masked_image__shapes_and_uniform_noise(picture: bytes) -> None:
    image, noise = _apply(picture)
    assert (image.shape, image.dtype) == ((3, 32, 32), np.uint8)
    assert (noise.shape, noise.dtype) == ((5000,), np.float32)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.mean() == pytest.approx(0.5, abs=0.02)
    assert noise.var() == pytest.approx(1 / 12, abs=0.005)


def test_masked_image__deterministic(picture: bytes) -> None:
    first, again, other = _apply(picture), _apply(picture), _apply(picture, seed=1)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_masked_image__settings_leave_the_noise_alone(picture: bytes) -> None:
    noise = _apply(picture)[1]
    for options in ({"flip": 1.0}, {"background": Background.random}, {"image_size": 16}, {"scale_min": 0.9}):
        assert np.array_equal(_apply(picture, **options)[1], noise)


def test_masked_image__flip_mirrors(picture: bytes) -> None:
    assert np.array_equal(_apply(picture, flip=1.0)[0], _apply(picture)[0][..., ::-1])


def test_masked_image__light_background_shows(encode_clear: bytes) -> None:
    image, _ = _apply(encode_clear, background=Background.light)
    assert image.min() >= 192
    assert (image == image[:, :1, :1]).all()
