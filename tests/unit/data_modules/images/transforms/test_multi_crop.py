"""Shapes, determinism and settings of multi-crop."""

from typing import Any

import numpy as np
import pytest

from data_modules.errors import DataError
from data_modules.images.decoding import decode_image
from data_modules.images.transforms.background import Background
from data_modules.images.transforms.crops import crop_resized, draw_box
from data_modules.images.transforms.multi_crop import ImageCrops, MultiCrop, MultiCropConfig


def _cut(picture: bytes, seed: int = 0, **options: Any) -> ImageCrops:
    config = MultiCropConfig(**{"image_size": 32, "local_size": 16} | options)
    return MultiCrop(config)(picture, np.random.default_rng(seed))


def test_multi_crop__shapes(picture: bytes) -> None:
    global_crops, local_crops, _ = _cut(picture, num_global_crops=3, num_local_crops=5)
    assert (global_crops.shape, global_crops.dtype) == ((3, 3, 32, 32), np.uint8)
    assert (local_crops.shape, local_crops.dtype) == ((5, 3, 16, 16), np.uint8)


def test_multi_crop__no_local_crops(picture: bytes) -> None:
    global_crops, local_crops, _ = _cut(picture, num_local_crops=0)
    assert global_crops.shape == (2, 3, 32, 32)
    assert local_crops.shape == (0, 3, 16, 16)


def test_multi_crop__local_crops_do_not_move_the_global_ones(picture: bytes) -> None:
    assert np.array_equal(_cut(picture, num_local_crops=0)[0], _cut(picture, num_local_crops=4)[0])


def test_multi_crop__same_seed_same_crops_and_views_differ(picture: bytes) -> None:
    first, again, other = _cut(picture), _cut(picture), _cut(picture, seed=1)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0][0], first[0][1])


def test_multi_crop__equals_boxes_drawn_from_the_same_stream(picture: bytes) -> None:
    global_crops, local_crops, _ = _cut(picture, seed=4, num_global_crops=2, num_local_crops=1)
    generator = np.random.default_rng(4)
    generator.integers(0, 256, size=3)
    image = decode_image(picture)
    for crop, low, high in [(global_crops[0], 0.4, 1), (global_crops[1], 0.4, 1), (local_crops[0], 0.1, 0.4)]:
        box = draw_box(image.width, image.height, low, high, generator)
        generator.uniform()
        assert np.array_equal(crop, crop_resized(image, box, crop.shape[-1]))


def test_multi_crop__flip_always_mirrors(picture: bytes) -> None:
    assert np.array_equal(_cut(picture, flip=1.0)[0], _cut(picture, flip=0.0)[0][..., ::-1])


def test_multi_crop__one_background_behind_all_crops(encode_clear: bytes) -> None:
    global_crops, local_crops, _ = _cut(encode_clear, background=Background.random)
    colours = {tuple(crop[:, 0, 0]) for crop in (*global_crops, *local_crops)}
    assert len(colours) == 1
    assert colours != {(255, 255, 255)}


def test_multi_crop__damaged_image() -> None:
    with pytest.raises(DataError, match="not a readable image"):
        _cut(b"garbage")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_global_crops": 0}, "num_global_crops = 0 must be at least 1"),
        ({"num_local_crops": -1}, "num_local_crops = -1 must be at least 0"),
        ({"global_scale_min": 0.0}, "global_scale_min = 0.0"),
        (
            {"local_scale_min": 0.5, "local_scale_max": 0.4},
            "local_scale_min = 0.5 must not exceed",
        ),
        ({"global_scale_max": 1.1}, "global_scale_max = 1.1"),
        ({"flip": 1.5}, "flip = 1.5 must be in"),
    ],
)
def test_multi_crop_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiCropConfig(**options)
