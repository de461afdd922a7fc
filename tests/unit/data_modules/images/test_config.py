"""Settings of crops and augmentation: values that are refused."""

from typing import Any

import pytest

from data_modules.images.config import MaskedImageConfig, MultiCropConfig, StrongConfig, ViewConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale_min": 0.0}, "scale_min = 0.0"), ({"flip": -0.1}, "flip = -0.1 must be in")],
)
def test_masked_image_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedImageConfig(**options)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (MultiCropConfig, {"num_global_crops": 0}, "num_global_crops = 0 must be at least 1"),
        (MultiCropConfig, {"num_local_crops": -1}, "num_local_crops = -1 must be at least 0"),
        (MultiCropConfig, {"global_scale_min": 0.0}, "global_scale_min = 0.0"),
        (MultiCropConfig, {"local_scale_min": 0.5}, "local_scale_min = 0.5 must not exceed"),
        (MultiCropConfig, {"global_scale_max": 1.1}, "global_scale_max = 1.1"),
        (MultiCropConfig, {"flip": 1.5}, "flip = 1.5 must be in"),
        (ViewConfig, {"num_views": -1}, "num_views = -1 must be at least 0"),
        (ViewConfig, {"scale_min": 0.0}, "scale_min = 0.0"),
        (ViewConfig, {"flip": 2.0}, "flip = 2.0 must be in"),
    ],
)
def test_multi_crop_config__bad_values(config: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_jitter": 1.2}, "color_jitter = 1.2 must be in"),
        ({"hue": 0.6}, r"hue = 0.6 must be in \[0, 0.5\]"),
        ({"blur_radius_min": 3.0}, "blur_radius_min = 3.0 must not exceed blur_radius_max = 2.0"),
        ({"rand_augment_ops": -1}, "rand_augment_ops = -1 must be at least 0"),
        ({"rand_augment_magnitude": 31}, r"rand_augment_magnitude = 31 must be in \[0, 30\]"),
    ],
)
def test_strong_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StrongConfig(**options)
