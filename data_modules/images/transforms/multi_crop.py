"""Multi-crop for contrastive training: large crops at full size, small ones at low resolution, and views.

Reference: Ko & Gu 2022 (arXiv:2203.14463) train on 224 px crops together with 96 px low-resolution ones; number,
scales and weights are unpublished. The scheme is SwAV's (Caron et al. 2020, arXiv:2006.09882). Views, for a
self-supervised loss: Mu et al. 2021 (SLIP, arXiv:2112.12750), sec. 3; Chen et al. 2020 (SimCLR, arXiv:2002.05709),
app. A.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from data_modules.config_roles import at_least, between, check_ranges, counted_as
from data_modules.images.decoding import EncodedImage
from data_modules.images.transforms.crops import (
    Background,
    CropDistribution,
    SampledCrops,
    check_scales,
    sample_crops,
    write_crops,
)
from data_modules.images.transforms.strong import StrongConfig, augment


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
        check_scales("scale", self.scale_min, self.scale_max)


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
        check_scales("global_scale", self.global_scale_min, self.global_scale_max)
        check_scales("local_scale", self.local_scale_min, self.local_scale_max)


class MultiCrop:
    """Cuts global crops, local crops and views out of one image; the file is decoded once.

    Attributes:
        distributions: Of global crops, local crops and views.
    """

    def __init__(self, config: MultiCropConfig) -> None:
        self.config, views, size, flip = config, config.views, config.image_size, config.flip
        low, high = config.local_scale_min, config.local_scale_max
        self.distributions = (
            CropDistribution(config.num_global_crops, size, config.global_scale_min, config.global_scale_max, flip),
            CropDistribution(config.num_local_crops, config.local_size, low, high, flip),
            CropDistribution(views.num_views, size, views.scale_min, views.scale_max, views.flip),
        )

    @property
    def augments(self) -> bool:
        """Whether crops or views are strongly augmented, which the CPU does with their pixels."""
        views = self.config.views
        return not self.config.strong.is_off or (views.num_views > 0 and not views.strong.is_off)

    def sample(self, image: EncodedImage, generator: np.random.Generator) -> SampledCrops:
        """The crops of an image file, from the sample's random stream.

        Views are sampled last: boxes and colours of the crops do not depend on them. If a small view requires a larger
        decoding of a large JPEG, the crops' pixels differ by resampling.
        """
        return sample_crops(image, self.distributions, self.config.background, generator)

    def write(self, sampled: SampledCrops, slots: Sequence[Tensor]) -> None:
        """Decode an image and write its crops, uint8 (3, side, side) each, to their places in a batch.

        Raises:
            SampleFault: The bytes cannot be decoded.
        """
        config, views = self.config, self.config.views
        write_crops(sampled, slots)
        if not self.augments:
            return
        # Separate streams, derived from the sample's: the boxes do not depend on strong augmentation.
        of_crops, of_views = sampled.generator.spawn(2)
        num_crops = config.num_global_crops + config.num_local_crops
        for slot in slots[:num_crops]:
            augment(slot, config.strong, of_crops)
        for slot in slots[num_crops:]:
            augment(slot, views.strong, of_views)
