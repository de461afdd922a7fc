"""Multi-crop for contrastive training: large crops at full size, small ones at low resolution, and views.

Reference: Ko & Gu 2022 (arXiv:2203.14463) train on 224 px crops together with 96 px low-resolution ones; number,
scales and weights are unpublished. The scheme is SwAV's (Caron et al. 2020, arXiv:2006.09882). Views, for a
self-supervised loss: Mu et al. 2021 (SLIP, arXiv:2112.12750), sec. 3; Chen et al. 2020 (SimCLR, arXiv:2002.05709),
app. A.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from data_modules.images.config import MultiCropConfig
from data_modules.images.decoding import EncodedImage
from data_modules.images.transforms.crops import (
    CropDistribution,
    SampledCrops,
    sample_crops,
    write_crops,
)
from data_modules.images.transforms.strong import augment


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
        if not self.config.augments:
            return
        # Separate streams, derived from the sample's: the boxes do not depend on strong augmentation.
        of_crops, of_views = sampled.generator.spawn(2)
        num_crops = config.num_global_crops + config.num_local_crops
        for slot in slots[:num_crops]:
            augment(slot, config.strong, of_crops)
        for slot in slots[num_crops:]:
            augment(slot, views.strong, of_views)
