"""The crop of MAE pre-training and the noise that selects its visible patches.

Reference: He et al. 2022 (arXiv:2111.06377): random resized crop of scale (0.2, 1) and horizontal flip.
Deviation: no flip by default, since the same encoder is later trained on captions that name directions.
"""

import numpy as np
from numpy.typing import NDArray

from data_modules.images.config import MaskedImageConfig
from data_modules.images.decoding import EncodedImage
from data_modules.images.transforms.crops import CropDistribution, Pixels, random_crops


class MaskedImage:
    """One random crop and one noise value per patch."""

    def __init__(self, config: MaskedImageConfig, num_patches: int) -> None:
        self.config = config
        self.num_patches = num_patches

    def __call__(
        self, data: bytes | EncodedImage, generator: np.random.Generator
    ) -> tuple[Pixels, NDArray[np.float32]]:
        """The crop, uint8 (3, image_size, image_size), and the noise, float32 (num_patches,) in [0, 1).

        Raises:
            SampleFault: The bytes cannot be decoded.
        """
        config = self.config
        crop = CropDistribution(1, config.image_size, config.scale_min, config.scale_max, config.flip)
        (pixels,) = random_crops(data, [crop], config.background, generator)
        return pixels, generator.random(self.num_patches, dtype=np.float32)
