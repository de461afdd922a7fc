"""The weak crop of MAE pre-training and the noise that chooses its visible patches.

Reference: He et al. 2022 (arXiv:2111.06377): random resized crop of scale (0.2, 1), flip, nothing else.
Deviation: the flip is off by default, since the same encoder later reads captions that name directions.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_modules.config_roles import at_least, between, check_ranges
from data_modules.images.decoding import EncodedImage, open_image
from data_modules.images.transforms.background import Background, draw_background
from data_modules.images.transforms.crops import Crop, check_scales, cut_crops, draw_box


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
    """Probability of mirroring the crop."""
    background: Background = Background.white
    """What shows behind transparent pictures: white, light (random light colours) or random."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_scales("scale", self.scale_min, self.scale_max)


class MaskedImage:
    """One random crop and one noise value per patch."""

    def __init__(self, config: MaskedImageConfig, num_patches: int) -> None:
        self.config = config
        self.num_patches = num_patches

    def __call__(
        self, data: bytes | EncodedImage, generator: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The crop, uint8 (3, image_size, image_size), and the noise, float32 (num_patches,) in [0, 1).

        Raises:
            SampleFault: The bytes are no image that can be decoded.
        """
        config = self.config
        image = data if isinstance(data, EncodedImage) else open_image(data)
        background = draw_background(config.background, generator)
        box = draw_box(image.width, image.height, config.scale_min, config.scale_max, generator)
        crop = Crop(box, config.image_size, flip=generator.uniform() < config.flip)
        return cut_crops(image, [crop], background)[0], generator.random(self.num_patches, dtype=np.float32)
