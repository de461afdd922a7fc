"""The crop of MAE pre-training and the noise that selects its visible patches.

Reference: He et al. 2022 (arXiv:2111.06377): random resized crop of scale (0.2, 1) and horizontal flip.
Deviation: no flip by default, since the same encoder is later trained on captions that name directions.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_modules.config_roles import at_least, between, check_ranges
from data_modules.images.decoding import EncodedImage
from data_modules.images.transforms.crops import (
    Background,
    CropDistribution,
    SampledCrops,
    check_scales,
    sample_crops,
)


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
        check_scales("scale", self.scale_min, self.scale_max)


class MaskedImage:
    """One random crop and one noise value per patch.

    Attributes:
        distributions: That of the crop.
    """

    def __init__(self, config: MaskedImageConfig, num_patches: int) -> None:
        self.config, self.num_patches = config, num_patches
        self.distributions = (CropDistribution(1, config.image_size, config.scale_min, config.scale_max, config.flip),)

    def sample(self, image: EncodedImage, generator: np.random.Generator, noise: NDArray[np.float32]) -> SampledCrops:
        """The crop of an image file, from the sample's random stream, and then its noise, uniform in [0, 1).

        `noise`, float32 (num_patches,), receives the noise.
        """
        sampled = sample_crops(image, self.distributions, self.config.background, generator)
        generator.random(dtype=np.float32, out=noise)
        return sampled
