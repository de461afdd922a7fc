"""Multi-crop for contrastive training: large crops at full size, small ones at low resolution.

Reference: Ko & Gu 2022 (arXiv:2203.14463) train on 224 px crops together with 96 px low-resolution ones; number,
scales and weights are unpublished. The scheme is SwAV's (Caron et al. 2020, arXiv:2006.09882).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_modules.decoding import EncodedImage, open_image
from data_modules.transforms.background import Background, draw_background
from data_modules.transforms.crops import Crop, cut_crops, draw_box
from data_modules.transforms.strong import StrongAugmentation, StrongConfig

Crops = NDArray[np.uint8]


@dataclass(kw_only=True, slots=True)
class MultiCropConfig:
    """Crops of one image; scales are shares of the image's area."""

    image_size: int = 224
    """Side of a global crop in pixels (paper: 224)."""
    num_global_crops: int = 2
    """Global crops per image, >= 1 (unpublished; SwAV's number)."""
    global_scale_min: float = 0.4
    """Smallest area share of a global crop, in (0, 1]."""
    global_scale_max: float = 1.0
    """Largest area share of a global crop, in (0, 1]."""
    local_size: int = 96
    """Side of a local crop in pixels (paper: 96)."""
    num_local_crops: int = 4
    """Local crops per image, >= 0 (unpublished)."""
    local_scale_min: float = 0.1
    """Smallest area share of a local crop, in (0, 1]."""
    local_scale_max: float = 0.4
    """Largest area share of a local crop, in (0, 1]."""
    flip: float = 0.0
    """Probability of mirroring a crop; 0 because captions name directions and written characters."""
    background: Background = Background.white
    """What shows behind transparent pictures: white, light (random light colours) or random."""
    strong: StrongConfig = field(default_factory=StrongConfig)
    """Colour jitter, grey, blur and RandAugment of every crop; off by default (the paper: they harm retrieval)."""

    def __post_init__(self) -> None:
        if self.num_global_crops < 1:
            raise ValueError(f"num_global_crops = {self.num_global_crops} must be at least 1")
        if self.num_local_crops < 0:
            raise ValueError(f"num_local_crops = {self.num_local_crops} must not be negative: 0 means none")
        check_scales("global_scale", self.global_scale_min, self.global_scale_max)
        check_scales("local_scale", self.local_scale_min, self.local_scale_max)
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip = {self.flip} is a probability: give a number from 0 to 1")


def check_scales(name: str, low: float, high: float) -> None:
    """Raise ValueError unless 0 < low <= high <= 1."""
    if not 0 < low <= high <= 1:
        raise ValueError(f"{name}_min = {low} and {name}_max = {high} must satisfy 0 < min <= max <= 1")


class MultiCrop:
    """Cuts one image into global and local crops; the file is decoded once."""

    def __init__(self, config: MultiCropConfig) -> None:
        self.config = config
        self._strong = None if config.strong.is_off else StrongAugmentation(config.strong)

    def __call__(self, data: bytes | EncodedImage, generator: np.random.Generator) -> tuple[Crops, Crops]:
        """The crops of an encoded image.

        Args:
            data: The image file's bytes, or the file with its header read.
            generator: The sample's random stream; background, then boxes and flips in order.

        Returns:
            uint8 (V, 3, image_size, image_size) and uint8 (V', 3, local_size, local_size).

        Raises:
            SampleFault: The bytes are no image that can be decoded.
        """
        config = self.config
        image = data if isinstance(data, EncodedImage) else open_image(data)
        background = draw_background(config.background, generator)
        drawn: list[Crop] = []
        for number, size, low, high in (
            (config.num_global_crops, config.image_size, config.global_scale_min, config.global_scale_max),
            (config.num_local_crops, config.local_size, config.local_scale_min, config.local_scale_max),
        ):
            for _ in range(number):
                box = draw_box(image.width, image.height, low, high, generator)
                drawn.append(Crop(box, size, flip=generator.uniform() < config.flip))
        cut = cut_crops(image, drawn, background)
        if self._strong is not None:
            # A stream of their own, derived from the sample's: the boxes are those of a run without them.
            own = generator.spawn(1)[0]
            cut = [self._strong(crop, own) for crop in cut]
        num_global, side = config.num_global_crops, config.local_size
        local = np.array(cut[num_global:], dtype=np.uint8).reshape(-1, 3, side, side)
        return np.stack(cut[:num_global]), local
