"""Views beside the crops: their own boxes and colours, and nothing else moved."""

from typing import Any

import numpy as np
import pytest

from data_modules.images import decoding
from data_modules.images.decoding import decode_image
from data_modules.images.transforms import crops as crops_of_files
from data_modules.images.transforms.crops import crop_resized, draw_box
from data_modules.images.transforms.multi_crop import ImageCrops, MultiCrop, MultiCropConfig
from data_modules.images.transforms.strong import StrongAugmentation, StrongConfig
from data_modules.images.transforms.views import ViewConfig

JITTER = StrongConfig(color_jitter=1.0)


def _cut(picture: bytes, views: ViewConfig, strong: StrongConfig | None = None) -> ImageCrops:
    config = MultiCropConfig(image_size=32, local_size=16, num_local_crops=1, strong=strong or StrongConfig())
    config.views = views
    return MultiCrop(config)(picture, np.random.default_rng(3))


@pytest.mark.parametrize("strong", [None, JITTER])
def test_views__leave_the_crops_as_they_are(picture: bytes, strong: StrongConfig | None) -> None:
    without, beside = _cut(picture, ViewConfig(), strong), _cut(picture, ViewConfig(num_views=2), strong)
    assert np.array_equal(without.global_crops, beside.global_crops)
    assert np.array_equal(without.local_crops, beside.local_crops)
    assert without.views.shape == (0, 3, 32, 32)
    assert (beside.views.shape, beside.views.dtype) == ((2, 3, 32, 32), np.uint8)
    assert not np.array_equal(*beside.views)


def test_views__own_boxes_then_own_colours(picture: bytes) -> None:
    found = _cut(picture, ViewConfig(num_views=2, flip=0.0, strong=JITTER), JITTER).views
    generator = np.random.default_rng(3)
    image = decode_image(picture)
    generator.integers(0, 256, size=3)
    for low, high in ((0.4, 1.0), (0.4, 1.0), (0.1, 0.4)):
        draw_box(image.width, image.height, low, high, generator)
        generator.uniform()
    boxes = [(draw_box(image.width, image.height, 0.08, 1.0, generator), generator.uniform())[0] for _ in range(2)]
    colours = generator.spawn(2)[1]
    for view, box in zip(found, boxes, strict=True):
        assert np.array_equal(view, StrongAugmentation(JITTER)(crop_resized(image, box, 32), colours))


def test_views__one_decode_for_all(picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def decode(*arguments: Any) -> Any:
        calls.append(1)
        return decoding.decode(*arguments)

    monkeypatch.setattr(crops_of_files, "decode", decode)
    _cut(picture, ViewConfig(num_views=2))
    assert calls == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_views": -1}, "num_views = -1 must be at least 0"),
        ({"scale_min": 0.0}, "scale_min = 0.0"),
        ({"flip": 2.0}, "flip = 2.0 must be in"),
    ],
)
def test_view_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewConfig(**options)
