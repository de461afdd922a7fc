"""Settings of decoding, crops and augmentation."""

from dataclasses import dataclass, field
from enum import Enum

from data_modules.config_roles import at_least, between, check_ranges, counted_as

MAX_IMAGE_PIXELS = 1 << 26
"""Default limit (8192 x 8192 pixels); larger images are treated as decompression bombs."""

NUM_BINS = 31
"""Magnitude bins of RandAugment, 0 included."""


class Background(Enum):
    """Colour behind transparent pixels; opaque images do not change."""

    white = "white"
    light = "light"
    """A random light colour per sample, each channel uniform in 192..255."""
    random = "random"
    """A random colour per sample, each channel uniform in 0..255."""


@dataclass(kw_only=True, slots=True)
class MaskedImageConfig:
    """One crop per image for MAE pre-training."""

    image_size: int = field(default=224, metadata=at_least(1))
    """Side of the crop in pixels."""
    scale_min: float = field(default=0.2, metadata=between(0, 1, "right"))
    """Smallest area share of the crop, in (0, 1] (He et al.: 0.2)."""
    scale_max: float = field(default=1.0, metadata=between(0, 1, "right"))
    """Largest area share of the crop, in (0, 1]."""
    flip: float = field(default=0.0, metadata=between(0, 1))
    """Probability of a horizontal flip."""
    background: Background = Background.white
    """Colour behind transparent pixels: white, light (random light colours) or random."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_scales("scale", self.scale_min, self.scale_max)


@dataclass(kw_only=True, slots=True)
class StrongConfig:
    """Probabilities and strengths of colour jitter, greyscale, blur and RandAugment, applied in this order."""

    color_jitter: float = field(default=0.0, metadata=between(0, 1))
    """Probability of colour jitter (SLIP: 0.8)."""
    brightness: float = field(default=0.4, metadata=between(0, 1))
    """Brightness factor of colour jitter, uniform in [1 - brightness, 1 + brightness]; in [0, 1]."""
    contrast: float = field(default=0.4, metadata=between(0, 1))
    """Contrast factor of colour jitter, likewise."""
    saturation: float = field(default=0.4, metadata=between(0, 1))
    """Saturation factor of colour jitter, likewise."""
    hue: float = field(default=0.1, metadata=between(0, 0.5))
    """Largest hue shift of colour jitter, as a share of the hue circle, in [0, 0.5]."""
    grayscale: float = field(default=0.0, metadata=between(0, 1))
    """Probability of greyscale (SLIP: 0.2)."""
    gaussian_blur: float = field(default=0.0, metadata=between(0, 1))
    """Probability of Gaussian blur (SLIP: 0.5)."""
    blur_radius_min: float = field(default=0.1, metadata=at_least(0))
    """Smallest standard deviation of the blur, in 1/224 of the crop's side."""
    blur_radius_max: float = field(default=2.0, metadata=at_least(0))
    """Largest standard deviation of the blur, in 1/224 of the crop's side (SimCLR: 2 pixels of 224)."""
    rand_augment_ops: int = field(default=0, metadata=at_least(0))
    """RandAugment operations per crop; 0 disables it (Cubuk et al.: 2)."""
    rand_augment_magnitude: int = field(default=9, metadata=between(0, NUM_BINS - 1))
    """Magnitude of RandAugment, 0-30."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.blur_radius_min > self.blur_radius_max:
            raise ValueError(
                f"blur_radius_min = {self.blur_radius_min} must not exceed blur_radius_max = {self.blur_radius_max}"
            )

    @property
    def is_off(self) -> bool:
        """Whether every augmentation is disabled."""
        return not (self.color_jitter or self.grayscale or self.gaussian_blur or self.rand_augment_ops)


@dataclass(kw_only=True, slots=True)
class ViewConfig:
    """Views of one image, of the global crops' size, for a self-supervised loss; they have no caption."""

    num_views: int = field(default=0, metadata=at_least(0))
    """Views per image: 2 if self_supervision.method is set (SLIP), else 0."""
    scale_min: float = field(default=0.08, metadata=between(0, 1, "right"))
    """Smallest area share of a view, in (0, 1] (SLIP: 0.08)."""
    scale_max: float = field(default=1.0, metadata=between(0, 1, "right"))
    """Largest area share of a view, in (0, 1] (SLIP: 1)."""
    flip: float = field(default=0.5, metadata=between(0, 1))
    """Probability of a horizontal flip (SLIP: 0.5)."""
    strong: StrongConfig = field(
        default_factory=lambda: StrongConfig(color_jitter=0.8, grayscale=0.2, gaussian_blur=0.5)
    )
    """Strong augmentation of every view; SLIP's color_jitter 0.8, grayscale 0.2 and gaussian_blur 0.5 by default."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_scales("scale", self.scale_min, self.scale_max)


@dataclass(kw_only=True, slots=True)
class MultiCropConfig:
    """Crops of one image; scales are shares of the image's area."""

    image_size: int = field(default=224, metadata=at_least(1))
    """Side of a global crop in pixels (paper: 224)."""
    num_global_crops: int = field(default=2, metadata=at_least(1))
    """Global crops per image, >= 1 (unpublished; SwAV's number)."""
    global_scale_min: float = field(default=0.4, metadata=between(0, 1, "right"))
    """Smallest area share of a global crop, in (0, 1]."""
    global_scale_max: float = field(default=1.0, metadata=between(0, 1, "right"))
    """Largest area share of a global crop, in (0, 1]."""
    local_size: int = field(default=96, metadata=at_least(1))
    """Side of a local crop in pixels (paper: 96)."""
    num_local_crops: int = field(default=4, metadata=at_least(0))
    """Local crops per image, >= 0 (unpublished)."""
    local_scale_min: float = field(default=0.1, metadata=between(0, 1, "right"))
    """Smallest area share of a local crop, in (0, 1]."""
    local_scale_max: float = field(default=0.4, metadata=between(0, 1, "right"))
    """Largest area share of a local crop, in (0, 1]."""
    flip: float = field(default=0.0, metadata=between(0, 1))
    """Probability of a horizontal flip; 0 because captions name directions and written characters."""
    background: Background = Background.white
    """Colour behind transparent pixels: white, light (random light colours) or random."""
    strong: StrongConfig = field(default_factory=StrongConfig)
    """Colour jitter, greyscale, blur and RandAugment of every crop; off by default (the paper: they harm retrieval)."""
    views: ViewConfig = field(
        default_factory=ViewConfig, metadata=counted_as(lambda section: section if section.num_views else None)
    )
    """Further crops of each image for a self-supervised loss; the other keys have no effect if num_views is 0."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_scales("global_scale", self.global_scale_min, self.global_scale_max)
        _check_scales("local_scale", self.local_scale_min, self.local_scale_max)

    @property
    def augments(self) -> bool:
        """Whether the pixels of crops or views are augmented after they are cut."""
        return not self.strong.is_off or (self.views.num_views > 0 and not self.views.strong.is_off)


def _check_scales(name: str, low: float, high: float) -> None:
    """Raise ValueError unless low <= high."""
    if low > high:
        raise ValueError(f"{name}_min = {low} must not exceed {name}_max = {high}")
