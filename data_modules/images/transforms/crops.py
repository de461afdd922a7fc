"""Random resized crops of an image file: header, crop boxes, decoding at the size that the boxes need, crops."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data_modules.images.config import Background
from data_modules.images.decoding import MAX_REDUCTION, WHITE, EncodedImage, decode
from data_modules.records import empty_pixels

Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]

_MAX_LOG_ASPECT = math.log(4 / 3)


class CropDistribution(NamedTuple):
    """`number` crops whose boxes follow one distribution."""

    number: int
    size: int
    """Side of the result in pixels."""
    scale_min: float
    """Smallest share of the image's area."""
    scale_max: float
    flip: float
    """Probability of a horizontal flip."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One sampled crop."""

    box: Box
    """Left, top, right, bottom in pixels, not rounded."""
    size: int
    """Side of the result in pixels."""
    flip: bool
    """Whether it is flipped horizontally."""


class SampledCrops(NamedTuple):
    """All random choices about the crops of one image, made before it is decoded."""

    image: EncodedImage
    crops: list[Crop]
    background: tuple[int, int, int]
    reduction: int
    """Factor by which the image is reduced while it is decoded."""
    generator: np.random.Generator
    """The sample's random stream behind these choices."""


def check_scales(name: str, low: float, high: float) -> None:
    """Raise ValueError unless low <= high."""
    if low > high:
        raise ValueError(f"{name}_min = {low} must not exceed {name}_max = {high}")


def empty_crops(distributions: Sequence[CropDistribution], num_images: int) -> list[Tensor]:
    """Uninitialised memory for the crops of a batch, uint8 (V, B, 3, size, size) for each distribution of V crops.

    The channels of a pixel are adjacent in memory, as decoders and the resizing kernel have them.
    """
    shapes = ((one.number, num_images, one.size, one.size, 3) for one in distributions)
    return [empty_pixels(*shape).permute(0, 1, 4, 2, 3) for shape in shapes]


def slots_by_image(crops: Sequence[Tensor]) -> list[list[Tensor]]:
    """Views of the memory of each image's crops, uint8 (3, size, size) each, in the order of the distributions."""
    return [list(slots) for slots in zip(*(one.unbind() for group in crops for one in group.unbind()), strict=True)]


class CropWriter(Protocol):
    """Receives the crops of the images of a batch."""

    @property
    def crops(self) -> Sequence[Tensor]:
        """Those of each distribution, uint8 (V, B, 3, size, size), or empty ones that the device fills."""

    def write(self, place: int, sampled: SampledCrops) -> None:
        """Decode the image at this place of the batch, no larger than its crops need.

        Raises:
            SampleFault: The bytes cannot be decoded.
        """


class CutWriter:
    """A `CropWriter` that cuts the crops.

    Args:
        distributions: Those of the crops, in order.
        num_images: Size of the batch.
        write: Writes the crops of one image to its slots.
    """

    def __init__(
        self,
        distributions: Sequence[CropDistribution],
        num_images: int,
        write: Callable[[SampledCrops, Sequence[Tensor]], None],
    ) -> None:
        self.crops = empty_crops(distributions, num_images)
        self._slots, self._write = slots_by_image(self.crops), write

    def write(self, place: int, sampled: SampledCrops) -> None:
        self._write(sampled, self._slots[place])


def sample_crops(
    image: EncodedImage,
    distributions: Sequence[CropDistribution],
    background: Background,
    generator: np.random.Generator,
) -> SampledCrops:
    """Sample all crops of an image file, of which only the header is read.

    Args:
        image: The image file with its header read.
        distributions: Sampled in this order.
        background: Colour behind transparent pixels.
        generator: The sample's random stream: the background first, then box and flip of each crop.
    """
    colour = sample_background(background, generator)
    crops = [
        Crop(
            sample_box(image.width, image.height, one.scale_min, one.scale_max, generator),
            one.size,
            flip=generator.random() < one.flip,
        )
        for one in distributions
        for _ in range(one.number)
    ]
    return SampledCrops(image, crops, colour, choose_reduction(crops) if image.is_plain_jpeg else 1, generator)


def sample_background(background: Background, generator: np.random.Generator) -> tuple[int, int, int]:
    """A colour (red, green, blue), 0-255 each; takes three integers from the stream for every setting."""
    # The integers of `generator.integers(low, 256, size=3)` in a fifth of its time, since 256 - low is a power of two.
    uniform = generator.random(3, dtype=np.float32)
    if background is Background.white:
        return WHITE
    low = 192 if background is Background.light else 0
    red, green, blue = (low + int(value * (256 - low)) for value in uniform.tolist())
    return red, green, blue


def sample_box(width: int, height: int, scale_min: float, scale_max: float, generator: np.random.Generator) -> Box:
    """A random crop box (left, top, right, bottom) in pixels, not rounded.

    The share of the image's area is uniform in [scale_min, scale_max] and the aspect ratio log-uniform in [3/4, 4/3]
    (Szegedy et al. 2015). A side longer than the image's is cut to it.
    """
    share, log_aspect, x, y = generator.random(4).tolist()  # one call takes a quarter of the time of four
    area = width * height * (scale_min + (scale_max - scale_min) * share)
    aspect = math.exp(-_MAX_LOG_ASPECT + 2 * _MAX_LOG_ASPECT * log_aspect)
    box_width = min(float(width), math.sqrt(area * aspect))
    box_height = min(float(height), math.sqrt(area / aspect))
    left, top = x * (width - box_width), y * (height - box_height)
    return left, top, left + box_width, top + box_height


def write_crops(sampled: SampledCrops, slots: Sequence[Tensor]) -> None:
    """Decode the file once, no larger than the crops need, then cut out and resize each crop.

    `slots` receive the crops, uint8 (3, size, size) each; fastest with adjacent channels, as in `empty_crops`.

    Raises:
        SampleFault: The bytes cannot be decoded.
    """
    image, crops, background, reduction, _ = sampled
    decoded = decode(image, background, reduction)
    if isinstance(decoded, Image.Image):
        decoded = np.array(decoded)
    scale_x, scale_y = decoded.shape[1] / image.width, decoded.shape[0] / image.height
    for crop, slot in zip(crops, slots, strict=True):
        _write_crop(decoded, crop, scale_x, scale_y, slot)


def choose_reduction(crops: Sequence[Crop]) -> int:
    """The largest of 1, 2, 4 and 8 at which no crop has to be enlarged that would not be at full size."""
    smallest = min(
        (min(crop.box[2] - crop.box[0], crop.box[3] - crop.box[1]) / crop.size for crop in crops), default=1.0
    )
    return min(MAX_REDUCTION, 1 << max(0, math.floor(math.log2(max(smallest, 1.0)))))


def _write_crop(decoded: Pixels, crop: Crop, scale_x: float, scale_y: float, slot: Tensor) -> None:
    """Write the crop of uint8 (H, W, 3), which is `scale_x` and `scale_y` times the size that the box refers to.

    Deviation: its edges are rounded to whole pixels, since torch's kernel, far faster than Pillow's, takes no box.
    """
    left, top, right, bottom = whole_pixels(crop.box, scale_x, scale_y, decoded.shape[1], decoded.shape[0])
    # On contiguous pixels with adjacent channels, torch's kernel gives the same result in two thirds of the time.
    pixels = torch.from_numpy(np.ascontiguousarray(decoded[top:bottom, left:right]))
    height, width, _ = pixels.shape
    cut = pixels.as_strided((1, 3, height, width), (3 * height * width, 1, 3 * width, 3))
    if cut.shape[2:] != (crop.size, crop.size):
        cut = F.interpolate(cut, size=(crop.size, crop.size), mode="bicubic", antialias=True, align_corners=False)
    slot.copy_((cut.flip(3) if crop.flip else cut)[0])


def whole_pixels(box: Box, scale_x: float, scale_y: float, width: int, height: int) -> tuple[int, int, int, int]:
    """The box in an image of this size, which is `scale_x` and `scale_y` times that of the box, in whole pixels."""
    left, right = _rounded(box[0] * scale_x, box[2] * scale_x, width)
    top, bottom = _rounded(box[1] * scale_y, box[3] * scale_y, height)
    return left, top, right, bottom


def _rounded(low: float, high: float, limit: int) -> tuple[int, int]:
    start = min(round(low), limit - 1)
    return start, min(max(round(high), start + 1), limit)
