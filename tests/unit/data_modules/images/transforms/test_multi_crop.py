"""Crops and views: shapes, boxes and colours from the sample's stream, one decoding."""

from typing import Any

import numpy as np
import pytest
import torch

from data_modules.errors import DataError
from data_modules.images import decoding
from data_modules.images.config import Background, MultiCropConfig, StrongConfig, ViewConfig
from data_modules.images.decoding import decode_image
from data_modules.images.transforms import crops as crops_of_files
from data_modules.images.transforms.crops import sample_box
from data_modules.images.transforms.strong import augment
from tests.unit.data_modules.one_by_one import CropsOfOne, crop_of, cut

JITTER = StrongConfig(color_jitter=1.0)


def _cut(picture: bytes, seed: int = 0, **options: Any) -> CropsOfOne:
    config = MultiCropConfig(**{"image_size": 32, "local_size": 16} | options)
    return cut(picture, config, np.random.default_rng(seed))


@pytest.mark.parametrize(("num_global", "num_local"), [(3, 5), (2, 0)])
def test_multi_crop__shapes(picture: bytes, num_global: int, num_local: int) -> None:
    crops = _cut(picture, num_global_crops=num_global, num_local_crops=num_local)
    assert (crops.global_crops.shape, crops.global_crops.dtype) == ((num_global, 3, 32, 32), np.uint8)
    assert (crops.local_crops.shape, crops.local_crops.dtype) == ((num_local, 3, 16, 16), np.uint8)
    assert (crops.views.shape, crops.views.dtype) == ((0, 3, 32, 32), np.uint8)


def test_multi_crop__local_crops_do_not_change_the_global_ones(picture: bytes) -> None:
    assert np.array_equal(_cut(picture, num_local_crops=0)[0], _cut(picture, num_local_crops=4)[0])


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


@pytest.mark.parametrize("strong", [StrongConfig(), JITTER])
def test_views__leave_the_crops_unchanged(picture: bytes, strong: StrongConfig) -> None:
    without, beside = _cut(picture, strong=strong), _cut(picture, strong=strong, views=ViewConfig(num_views=2))
    assert np.array_equal(without.global_crops, beside.global_crops)
    assert np.array_equal(without.local_crops, beside.local_crops)
    assert (beside.views.shape, beside.views.dtype) == ((2, 3, 32, 32), np.uint8)
    assert not np.array_equal(*beside.views)


def test_multi_crop__boxes_of_the_stream_then_colours_of_the_views(picture: bytes) -> None:
    views = ViewConfig(num_views=2, flip=0.0, strong=JITTER)
    found = _cut(picture, seed=3, num_local_crops=1, views=views)
    generator = np.random.default_rng(3)
    image = decode_image(picture)
    generator.integers(0, 256, size=3)

    def crop(low: float, high: float, size: int) -> np.ndarray:
        box = sample_box(image.width, image.height, low, high, generator)
        generator.uniform()
        return crop_of(torch.from_numpy(np.array(image)), box, size, flip=False)

    assert np.array_equal(found.global_crops, [crop(0.4, 1.0, 32), crop(0.4, 1.0, 32)])
    assert np.array_equal(found.local_crops, [crop(0.1, 0.4, 16)])
    plain = torch.from_numpy(np.stack([crop(0.08, 1.0, 32) for _ in range(2)]))
    colours = generator.spawn(2)[1]
    for view in plain:
        augment(view, JITTER, colours)
    assert np.array_equal(found.views, plain)


def test_views__one_decoding_for_all(picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def decode(*arguments: Any) -> Any:
        calls.append(1)
        return decoding.decode(*arguments)

    monkeypatch.setattr(crops_of_files, "decode", decode)
    _cut(picture, views=ViewConfig(num_views=2))
    assert calls == [1]
