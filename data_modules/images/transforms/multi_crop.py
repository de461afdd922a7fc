"""Multi-crop for contrastive training: large crops at full size, small ones at low resolution, and views.

Reference: Ko & Gu 2022 (arXiv:2203.14463) train on 224 px crops together with 96 px low-resolution ones; number,
scales and weights are unpublished. The scheme is SwAV's (Caron et al. 2020, arXiv:2006.09882). Views, for a
self-supervised loss: Mu et al. 2021 (SLIP, arXiv:2112.12750), sec. 3; Chen et al. 2020 (SimCLR, arXiv:2002.05709),
app. A.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_modules.images.config import MultiCropConfig
from data_modules.images.decoding import EncodedImage
from data_modules.images.transforms.crops import CropDistribution, Pixels, random_crops
from data_modules.images.transforms.strong import augment


class ImageCrops(NamedTuple):
    """The crops of one image, uint8 (number, 3, side, side) each; there may be no local crops and no views."""

    global_crops: Pixels
    """Of side image_size."""
    local_crops: Pixels
    """Of side local_size."""
    views: Pixels
    """Of side image_size."""


class MultiCrop:
    """Cuts global crops, local crops and views out of one image; the file is decoded once."""

    def __init__(self, config: MultiCropConfig) -> None:
        self.config, views, size, flip = config, config.views, config.image_size, config.flip
        low, high = config.local_scale_min, config.local_scale_max
        self._distributions = (
            CropDistribution(config.num_global_crops, size, config.global_scale_min, config.global_scale_max, flip),
            CropDistribution(config.num_local_crops, config.local_size, low, high, flip),
            CropDistribution(views.num_views, size, views.scale_min, views.scale_max, views.flip),
        )

    def __call__(self, data: bytes | EncodedImage, generator: np.random.Generator) -> ImageCrops:
        """The crops of an image file, from the sample's random stream.

        Views are sampled last: boxes and colours of the crops do not depend on them. If a small view requires a larger
        decoding of a large JPEG, the crops' pixels differ by resampling.

        Raises:
            SampleFault: The bytes cannot be decoded.
        """
        config, views = self.config, self.config.views
        num_global, num_crops = config.num_global_crops, config.num_global_crops + config.num_local_crops
        crops = random_crops(data, self._distributions, config.background, generator)
        if not config.strong.is_off or (views.num_views and not views.strong.is_off):
            # Separate streams, derived from the sample's: the boxes do not depend on strong augmentation.
            of_crops, of_views = generator.spawn(2)
            crops = [
                *(augment(crop, config.strong, of_crops) for crop in crops[:num_crops]),
                *(augment(view, views.strong, of_views) for view in crops[num_crops:]),
            ]
        return ImageCrops(
            _stack(crops[:num_global], config.image_size),
            _stack(crops[num_global:num_crops], config.local_size),
            _stack(crops[num_crops:], config.image_size),
        )


def _stack(crops: Sequence[Pixels], side: int) -> Pixels:
    # np.stack keeps the channels-last memory layout of the decoders; np.array would copy into another.
    return np.stack(crops) if crops else np.empty((0, 3, side, side), dtype=np.uint8)
