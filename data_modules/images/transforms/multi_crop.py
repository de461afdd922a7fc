"""Multi-crop for contrastive training: large crops at full size, small ones at low resolution.

Reference: Ko & Gu 2022 (arXiv:2203.14463) train on 224 px crops together with 96 px low-resolution ones; number,
scales and weights are unpublished. The scheme is SwAV's (Caron et al. 2020, arXiv:2006.09882).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.config_roles import at_least, between, check_ranges, counted_as
from data_modules.images.decoding import EncodedImage, open_image
from data_modules.images.transforms.background import Background, draw_background
from data_modules.images.transforms.crops import Crop, check_scales, cut_crops, draw_box
from data_modules.images.transforms.strong import StrongAugmentation, StrongConfig
from data_modules.images.transforms.views import ViewConfig

Crops = NDArray[np.uint8]


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
    """Probability of mirroring a crop; 0 because captions name directions and written characters."""
    background: Background = Background.white
    """What shows behind transparent pictures: white, light (random light colours) or random."""
    strong: StrongConfig = field(default_factory=StrongConfig)
    """Colour jitter, grey, blur and RandAugment of every crop; off by default (the paper: they harm retrieval)."""
    views: ViewConfig = field(
        default_factory=ViewConfig, metadata=counted_as(lambda section: section if section.num_views else None)
    )
    """Further cuts of each image for a self-supervised loss; with num_views 0, the default, no other key counts."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_scales("global_scale", self.global_scale_min, self.global_scale_max)
        check_scales("local_scale", self.local_scale_min, self.local_scale_max)


class ImageCrops(NamedTuple):
    """What is cut out of one image, uint8 (number, 3, side, side) each; a number may be 0 but for the first."""

    global_crops: Crops
    local_crops: Crops
    views: Crops


class MultiCrop:
    """Cuts one image into global and local crops and views; the file is decoded once."""

    def __init__(self, config: MultiCropConfig) -> None:
        self.config = config
        self._strong = None if config.strong.is_off else StrongAugmentation(config.strong)
        views = config.views
        self._strong_views = StrongAugmentation(views.strong) if views.num_views and not views.strong.is_off else None

    def __call__(self, data: bytes | EncodedImage, generator: np.random.Generator) -> ImageCrops:
        """The crops of an encoded image.

        Views are drawn last, so that the crops have the boxes and colours of a run without them. Where a view is so
        small a part of a large JPEG that it has to be decoded at a larger size, the crops' pixels differ by resampling.

        Args:
            data: The image file's bytes, or the file with its header read.
            generator: The sample's random stream; background, then boxes and flips in order.

        Returns:
            Crops of image_size, of local_size, and views of image_size.

        Raises:
            SampleFault: The bytes are no image that can be decoded.
        """
        config, views = self.config, self.config.views
        image = data if isinstance(data, EncodedImage) else open_image(data)
        background = draw_background(config.background, generator)
        drawn: list[Crop] = []
        for number, size, low, high, flip in (
            (config.num_global_crops, config.image_size, config.global_scale_min, config.global_scale_max, config.flip),
            (config.num_local_crops, config.local_size, config.local_scale_min, config.local_scale_max, config.flip),
            (views.num_views, config.image_size, views.scale_min, views.scale_max, views.flip),
        ):
            for _ in range(number):
                box = draw_box(image.width, image.height, low, high, generator)
                drawn.append(Crop(box, size, flip=generator.uniform() < flip))
        cut = cut_crops(image, drawn, background)
        num_crops = config.num_global_crops + config.num_local_crops
        if self._strong is not None or self._strong_views is not None:
            # Streams of their own, derived from the sample's: the boxes are those of a run without them.
            of_crops, of_views = generator.spawn(2)
            changed = _change(cut[:num_crops], self._strong, of_crops)
            cut = [*changed, *_change(cut[num_crops:], self._strong_views, of_views)]
        return ImageCrops(
            _stack(cut[: config.num_global_crops], config.image_size),
            _stack(cut[config.num_global_crops : num_crops], config.local_size),
            _stack(cut[num_crops:], config.image_size),
        )


def _change(crops: list[Crops], strong: StrongAugmentation | None, generator: np.random.Generator) -> list[Crops]:
    return crops if strong is None else [strong(crop, generator) for crop in crops]


def _stack(crops: list[Crops], side: int) -> Crops:
    # np.stack keeps the decoders' order in memory, channels last; np.array would turn every picture round.
    return np.stack(crops) if crops else np.empty((0, 3, side, side), dtype=np.uint8)
