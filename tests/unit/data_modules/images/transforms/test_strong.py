"""Colour jitter, greyscale, blur and RandAugment against torchvision, alone and in multi-crop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import RandAugment, _apply_op

from data_modules.images.config import NUM_BINS, MultiCropConfig, StrongConfig
from data_modules.images.transforms.strong import OPERATIONS, augment, rand_augment, shift_hue
from tests.unit.data_modules.one_by_one import cut


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def _augmented(pixels: np.ndarray, config: StrongConfig, generator: np.random.Generator) -> np.ndarray:
    crop = torch.from_numpy(pixels.copy())
    augment(crop, config, generator)
    return crop.numpy()


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_operations__agree_with_torchvision(name: str, magnitude: int, image: Image.Image) -> None:
    magnitudes, signed = RandAugment()._augmentation_space(NUM_BINS, (32, 32))[name]
    theirs = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    operation, largest, ours_signed = OPERATIONS[name]
    strength = largest(32) * magnitude / (NUM_BINS - 1)
    assert ours_signed == signed
    for sign in (1, -1) if signed else (1,):
        expected = _apply_op(image, name, sign * theirs, InterpolationMode.NEAREST, None)
        assert np.array_equal(np.asarray(operation(image, sign * strength)), np.asarray(expected))


@pytest.mark.parametrize("shift", [-0.5, -0.07, 0.0, 0.1, 0.5])
def test_shift_hue__agrees_with_torchvision(shift: float, image: Image.Image) -> None:
    assert np.array_equal(np.asarray(shift_hue(image, shift)), np.asarray(F.adjust_hue(image, shift)))


class _Scripted:
    """A generator with chosen factors and a chosen order; every probability is met."""

    def __init__(self, factors: list[float], order: list[int]) -> None:
        self.factors, self.order = iter(factors), order

    def uniform(self, low: float | None = None, high: float | None = None) -> float:
        return 0.0 if low is None else next(self.factors)

    def permutation(self, _: int) -> list[int]:
        return self.order


def test_jitter__is_torchvisions_four_steps_in_sampled_order(image: Image.Image) -> None:
    changes: list[Callable[..., Image.Image]]
    changes = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    factors, order, expected = [1.3, 0.7, 1.2, -0.05], [2, 0, 3, 1], image
    for step in order:
        expected = changes[step](expected, factors[step])
    scripted: Any = _Scripted(factors, order)
    found = _augmented(_pixels(image), StrongConfig(color_jitter=1.0), scripted)
    assert np.array_equal(found, _pixels(expected))


def test_grey__has_equal_channels_with_lumas_weights(image: Image.Image) -> None:
    pixels = _pixels(image)
    grey = _augmented(pixels, StrongConfig(grayscale=1.0), np.random.default_rng(0))
    luma = np.tensordot([0.299, 0.587, 0.114], pixels.astype(float), axes=1)
    assert np.array_equal(grey[0], grey[1]) and np.array_equal(grey[0], grey[2])
    assert np.abs(grey[0] - luma).max() <= 1


def test_blur__smooths_and_keeps_the_mean(image: Image.Image) -> None:
    config = StrongConfig(gaussian_blur=1.0, blur_radius_min=14.0, blur_radius_max=14.0)  # 2 pixels of 32
    pixels = _pixels(image)
    blurred = _augmented(pixels, config, np.random.default_rng(0))
    assert blurred.std() < 0.4 * pixels.std()
    assert blurred.mean() == pytest.approx(pixels.mean(), abs=3)


def test_rand_augment__samples_every_operation(image: Image.Image) -> None:
    generator = np.random.default_rng(0)
    results = {rand_augment(image, 9, generator).tobytes() for _ in range(300)}
    # Five operations have one result each, nine have two signs.
    assert 14 <= len(results) <= 5 + 2 * 9


def test_multi_crop__strong_changes_colours_and_never_the_boxes(picture: bytes) -> None:
    options: dict[str, Any] = {"image_size": 32, "local_size": 16}
    plain = cut(picture, MultiCropConfig(**options), _stream())
    grey = cut(picture, MultiCropConfig(**options, strong=StrongConfig(grayscale=1.0)), _stream())
    for before, after in zip(plain, grey, strict=True):
        for crop, changed in zip(before, after, strict=True):
            assert np.array_equal(changed[0], np.asarray(Image.fromarray(crop.transpose(1, 2, 0)).convert("L")))


def test_multi_crop__disabled_strong_settings_leave_the_stream_alone(picture: bytes) -> None:
    generator, untouched = _stream(), _stream()
    cut(picture, MultiCropConfig(image_size=32, strong=StrongConfig(hue=0.5)), generator)
    cut(picture, MultiCropConfig(image_size=32), untouched)
    states = [one.bit_generator.state["state"]["counter"].tolist() for one in (generator, untouched)]
    assert states[0] == states[1]
    assert generator.random() == untouched.random()


def _stream() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([0, 2, 5, 7])))
