"""The crop of MAE pre-training and the noise that selects its visible patches.

Reference: He et al. 2022 (arXiv:2111.06377): random resized crop of scale (0.2, 1) and horizontal flip.
Deviation: no flip by default, since the same encoder is later trained on captions that name directions.
"""

import numpy as np
from numpy.typing import NDArray

from data_modules.images.config import MaskedImageConfig
from data_modules.images.decoding import EncodedImage
from data_modules.images.transforms.crops import (
    CropDistribution,
    SampledCrops,
    sample_crops,
)


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
