"""Strong augmentation of crops: colour jitter, greyscale, blur and RandAugment; all off by default.

Reference: Chen et al. 2020 (SimCLR, arXiv:2002.05709), app. A; Mu et al. 2021 (SLIP, arXiv:2112.12750), sec. 3:
jitter (0.4, 0.4, 0.4, 0.1) with probability 0.8, greyscale 0.2, blur 0.5; Cubuk et al. 2019 (RandAugment,
arXiv:1909.13719). Operations and the 31 magnitude bins are those of torchvision 0.28 on Pillow images.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from data_modules.images.config import NUM_BINS, StrongConfig

Operation = Callable[[Image.Image, float], Image.Image]


def augment(crop: Tensor, config: StrongConfig, generator: np.random.Generator) -> None:
    """Augment a crop, uint8 (3, S, S), in place; without random draws if every augmentation is off."""
    if config.is_off:
        return
    pixels = crop.numpy().transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if generator.uniform() < config.color_jitter:
        image = _jitter(image, config, generator)
    if generator.uniform() < config.grayscale:
        image = image.convert("L").convert("RGB")
    if generator.uniform() < config.gaussian_blur:
        radius = generator.uniform(config.blur_radius_min, config.blur_radius_max) * image.width / 224
        image = image.filter(ImageFilter.GaussianBlur(radius))
    for _ in range(config.rand_augment_ops):
        image = rand_augment(image, config.rand_augment_magnitude, generator)
    pixels[...] = np.asarray(image)


def _jitter(image: Image.Image, config: StrongConfig, generator: np.random.Generator) -> Image.Image:
    strengths = (config.brightness, config.contrast, config.saturation)
    factors = [generator.uniform(1 - strength, 1 + strength) for strength in strengths]
    shift = generator.uniform(-config.hue, config.hue)
    for step in generator.permutation(4):
        image = shift_hue(image, shift) if step == 3 else _ENHANCERS[step](image).enhance(factors[step])
    return image


def shift_hue(image: Image.Image, shift: float) -> Image.Image:
    """Shift the hue by a share of the hue circle, in [-0.5, 0.5]."""
    hue, saturation, value = image.convert("HSV").split()
    shifted = np.asarray(hue) + np.array(int(shift * 255)).astype(np.uint8)  # modulo 256, as the hue is
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def rand_augment(image: Image.Image, magnitude: int, generator: np.random.Generator) -> Image.Image:
    """Apply one operation, sampled uniformly, at `magnitude` of 30 bins; signed ones get a random sign."""
    name = _NAMES[int(generator.integers(len(_NAMES)))]
    operation, largest, signed = OPERATIONS[name]
    strength = largest(image.width) * magnitude / (NUM_BINS - 1)
    return operation(image, -strength if signed and generator.uniform() < 0.5 else strength)


_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Strength 0 leaves the image unchanged."""
    return lambda image, strength: enhancer(image).enhance(1 + strength)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=None)


def _largest_shift(side: int) -> float:
    return 150 / 331 * side


OPERATIONS: dict[str, tuple[Operation, Callable[[int], float], bool]] = {
    "Identity": (lambda image, _: image, lambda _: 0.0, False),
    "ShearX": (lambda image, strength: _affine(image, 1, strength, 0, 0, 1, 0), lambda _: 0.3, True),
    "ShearY": (lambda image, strength: _affine(image, 1, 0, 0, strength, 1, 0), lambda _: 0.3, True),
    "TranslateX": (lambda image, strength: _affine(image, 1, 0, -int(strength), 0, 1, 0), _largest_shift, True),
    "TranslateY": (lambda image, strength: _affine(image, 1, 0, 0, 0, 1, -int(strength)), _largest_shift, True),
    "Rotate": (lambda image, strength: image.rotate(strength), lambda _: 30.0, True),
    "Brightness": (_enhance(ImageEnhance.Brightness), lambda _: 0.9, True),
    "Color": (_enhance(ImageEnhance.Color), lambda _: 0.9, True),
    "Contrast": (_enhance(ImageEnhance.Contrast), lambda _: 0.9, True),
    "Sharpness": (_enhance(ImageEnhance.Sharpness), lambda _: 0.9, True),
    "Posterize": (lambda image, strength: ImageOps.posterize(image, 8 - round(strength)), lambda _: 4.0, False),
    "Solarize": (lambda image, strength: ImageOps.solarize(image, math.ceil(255 - strength)), lambda _: 255.0, False),
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), lambda _: 0.0, False),
    "Equalize": (lambda image, _: ImageOps.equalize(image), lambda _: 0.0, False),
}
"""Name -> (operation on image and strength, largest strength for a side in pixels, whether it is signed)."""
_NAMES = tuple(OPERATIONS)
