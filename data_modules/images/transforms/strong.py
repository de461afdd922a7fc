"""Strong augmentation of crops: colour jitter, grey, blur and RandAugment; everything is off by default.

Reference: Chen et al. 2020 (SimCLR, arXiv:2002.05709), app. A; Mu et al. 2021 (SLIP, arXiv:2112.12750), sec. 3:
jitter (0.4, 0.4, 0.4, 0.1) with probability 0.8, grey 0.2, blur 0.5; Cubuk et al. 2019 (RandAugment, arXiv:1909.13719).
The operations agree with torchvision's on Pillow images (0.28), and so do RandAugment's 31 bins of strength.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from data_modules.config_roles import at_least, between, check_ranges

Pixels = NDArray[np.uint8]
Operation = Callable[[Image.Image, float], Image.Image]

NUM_BINS = 31
"""Steps of RandAugment's strength, 0 included."""


@dataclass(kw_only=True, slots=True)
class StrongConfig:
    """Probabilities and strengths; a crop goes through colour jitter, greyscale, blur and RandAugment in this order."""

    color_jitter: float = field(default=0.0, metadata=between(0, 1))
    """Probability of colour jitter (SLIP: 0.8)."""
    brightness: float = field(default=0.4, metadata=between(0, 1))
    """The jitter's factor on brightness is uniform in [1 - brightness, 1 + brightness]; in [0, 1]."""
    contrast: float = field(default=0.4, metadata=between(0, 1))
    """The same for contrast."""
    saturation: float = field(default=0.4, metadata=between(0, 1))
    """The same for saturation."""
    hue: float = field(default=0.1, metadata=between(0, 0.5))
    """The jitter turns the hue by up to this share of the circle, in [0, 0.5]."""
    grayscale: float = field(default=0.0, metadata=between(0, 1))
    """Probability of greyscale (SLIP: 0.2)."""
    gaussian_blur: float = field(default=0.0, metadata=between(0, 1))
    """Probability of Gaussian blur (SLIP: 0.5)."""
    blur_radius_min: float = field(default=0.1, metadata=at_least(0))
    """Smallest standard deviation of the blur, in 1/224 of the crop's side."""
    blur_radius_max: float = field(default=2.0, metadata=at_least(0))
    """Largest standard deviation of the blur, in 1/224 of the crop's side (SimCLR: 2 pixels of 224)."""
    rand_augment_ops: int = field(default=0, metadata=at_least(0))
    """Operations of RandAugment per crop; 0: none (its authors: 2)."""
    rand_augment_magnitude: int = field(default=9, metadata=between(0, NUM_BINS - 1))
    """Strength of RandAugment, 0-30."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.blur_radius_min > self.blur_radius_max:
            raise ValueError(
                f"blur_radius_min = {self.blur_radius_min} must not exceed blur_radius_max = {self.blur_radius_max}"
            )

    @property
    def is_off(self) -> bool:
        """Whether no crop is ever changed."""
        return not (self.color_jitter or self.grayscale or self.gaussian_blur or self.rand_augment_ops)


class StrongAugmentation:
    """Changes the colours (RandAugment: the shape too) of one crop."""

    def __init__(self, config: StrongConfig) -> None:
        self.config = config

    def __call__(self, pixels: Pixels, generator: np.random.Generator) -> Pixels:
        """The changed crop, uint8 (3, S, S) as it came; takes its draws from the generator given."""
        config = self.config
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        if generator.uniform() < config.color_jitter:
            image = self._jitter(image, generator)
        if generator.uniform() < config.grayscale:
            image = image.convert("L").convert("RGB")
        if generator.uniform() < config.gaussian_blur:
            radius = generator.uniform(config.blur_radius_min, config.blur_radius_max) * image.width / 224
            image = image.filter(ImageFilter.GaussianBlur(radius))
        for _ in range(config.rand_augment_ops):
            image = rand_augment(image, config.rand_augment_magnitude, generator)
        return np.asarray(image).transpose(2, 0, 1)

    def _jitter(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        config = self.config
        strengths = (config.brightness, config.contrast, config.saturation)
        factors = [generator.uniform(1 - strength, 1 + strength) for strength in strengths]
        turn = generator.uniform(-config.hue, config.hue)
        for step in generator.permutation(4):
            image = turn_hue(image, turn) if step == 3 else _ENHANCERS[step](image, factors[step])
        return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """The image with its hue turned by a share of the circle, in [-0.5, 0.5]."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.array(int(turn * 255)).astype(np.uint8)  # wraps round at 256, as the hue does
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def rand_augment(image: Image.Image, magnitude: int, generator: np.random.Generator) -> Image.Image:
    """One operation, drawn uniformly, at a strength of `magnitude` of 30 bins; signed ones go either way."""
    name = _NAMES[int(generator.integers(len(_NAMES)))]
    operation, largest, signed = OPERATIONS[name]
    strength = largest(image.width) * magnitude / (NUM_BINS - 1)
    return operation(image, -strength if signed and generator.uniform() < 0.5 else strength)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _colour(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(factor)


def _sharpness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor)


_ENHANCERS: tuple[Operation, ...] = (_brightness, _contrast, _colour)


def _relative(operation: Operation) -> Operation:
    """Strength 0 leaves the image as it is."""
    return lambda image, strength: operation(image, 1 + strength)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=None)


OPERATIONS: dict[str, tuple[Operation, Callable[[int], float], bool]] = {
    "Identity": (lambda image, _: image, lambda _: 0.0, False),
    "ShearX": (lambda image, strength: _affine(image, 1, strength, 0, 0, 1, 0), lambda _: 0.3, True),
    "ShearY": (lambda image, strength: _affine(image, 1, 0, 0, strength, 1, 0), lambda _: 0.3, True),
    "TranslateX": (
        lambda image, strength: _affine(image, 1, 0, -int(strength), 0, 1, 0),
        lambda side: 150 / 331 * side,
        True,
    ),
    "TranslateY": (
        lambda image, strength: _affine(image, 1, 0, 0, 0, 1, -int(strength)),
        lambda side: 150 / 331 * side,
        True,
    ),
    "Rotate": (lambda image, strength: image.rotate(strength), lambda _: 30.0, True),
    "Brightness": (_relative(_brightness), lambda _: 0.9, True),
    "Color": (_relative(_colour), lambda _: 0.9, True),
    "Contrast": (_relative(_contrast), lambda _: 0.9, True),
    "Sharpness": (_relative(_sharpness), lambda _: 0.9, True),
    "Posterize": (lambda image, strength: ImageOps.posterize(image, 8 - round(strength)), lambda _: 4.0, False),
    "Solarize": (lambda image, strength: ImageOps.solarize(image, math.ceil(255 - strength)), lambda _: 255.0, False),
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), lambda _: 0.0, False),
    "Equalize": (lambda image, _: ImageOps.equalize(image), lambda _: 0.0, False),
}
"""Name -> (operation on image and strength, largest strength for a side in pixels, whether it may be negative)."""
_NAMES = tuple(OPERATIONS)
