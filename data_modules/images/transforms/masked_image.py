"""The crop of MAE pre-training and the noise that selects its visible patches.

Reference: He et al. 2022 (arXiv:2111.06377): random resized crop of scale (0.2, 1) and horizontal flip.
Deviation: no flip by default, since the same encoder is later trained on captions that name directions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_modules.images.config import MaskedImageConfig
from data_modules.images.decoding import EncodedImage
from data_modules.images.transforms.crops import (
    CropDistribution,
    SampledCrops,
    empty_crops,
    sample_crops,
    slots_by_image,
)


class MaskedImageBatch(NamedTuple):
    """Memory of the crops of B images and of the noise of their masks."""

    images: Tensor
    """uint8 (B, 3, image_size, image_size)."""
    noise: NDArray[np.float32]
    """float32 (B, num_patches)."""
    slots: list[list[Tensor]]
    """Of each image, the memory of its one crop, uint8 (3, image_size, image_size)."""


class MaskedImage:
    """One random crop and one noise value per patch."""

    def __init__(self, config: MaskedImageConfig, num_patches: int) -> None:
        self.config, self.num_patches = config, num_patches
        self._distributions = (CropDistribution(1, config.image_size, config.scale_min, config.scale_max, config.flip),)

    def new_batch(self, num_images: int) -> MaskedImageBatch:
        """Uninitialised memory for a batch."""
        (crops,) = groups = empty_crops(self._distributions, num_images)
        noise = np.empty((num_images, self.num_patches), dtype=np.float32)
        return MaskedImageBatch(crops[0], noise, slots_by_image(groups))

    def sample(self, image: EncodedImage, generator: np.random.Generator, noise: NDArray[np.float32]) -> SampledCrops:
        """The crop of an image file, from the sample's random stream, and then its noise, uniform in [0, 1).

        `noise`, float32 (num_patches,), receives the noise.
        """
        sampled = sample_crops(image, self._distributions, self.config.background, generator)
        generator.random(dtype=np.float32, out=noise)
        return sampled
