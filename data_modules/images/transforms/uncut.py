"""Crops that the device of the model cuts: the CPU decodes the images and hands on pixels and boxes.

A crop is two products of matrices, since columns and rows are resized independently: rows @ (pixels @ columns), with
the weights of a bicubic filter with antialiasing. They are those of torch on the CPU, and so are boxes and edges: a box
is rounded to whole pixels, and nothing is read beyond it.

Reference: Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -0.5, stretched by the
scale of a reduction as in Pillow's `Image.resize`.
Deviation: the CPU rounds weights to 16 bits, and a GPU multiplies in float16; a pixel differs by at most 2 of 255.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_modules.images.decoding import decode
from data_modules.images.transforms.crops import CropDistribution, Pixels, SampledCrops, whole_pixels
from data_modules.records import REGION_FIELDS, Batch, UncutBatch, UncutCrops, empty_pixels

_SUPPORT = 2.0
"""Radius of the bicubic filter in pixels of the coarser of source and result."""
_CHUNK_PIXELS = 1 << 23
"""Source pixels of crops that are cut together, which take about 0.25 GB of the device."""
_ROOM = 1.25
"""First memory for the images of a batch, as a multiple of that for as many as large as the first."""

Region = tuple[int, int, int, int, int]
"""See `records.UncutCrops.regions`."""


class UncutWriter:
    """A `crops.CropWriter` that decodes the images of a batch and leaves the crops to the device.

    Args:
        distributions: Those of the crops, in order.
        num_images: Size of the batch.
    """

    def __init__(self, distributions: Sequence[CropDistribution], num_images: int) -> None:
        self.crops = [torch.empty(one.number, num_images, 3, 0, 0, dtype=torch.uint8) for one in distributions]
        """Placeholders, uint8 (V, B, 3, 0, 0) for each distribution."""
        self._distributions = distributions
        self._regions: list[list[Region]] = [[] for _ in range(num_images)]
        self._memory, self._used = empty_pixels(0), 0

    def write(self, place: int, sampled: SampledCrops) -> None:
        """Decode an image into the memory of the batch, no larger than its crops need.

        Raises:
            SampleFault: The bytes cannot be decoded.
        """
        image, crops, background, reduction, _ = sampled
        height, width = image.reduced_size(reduction)
        decoded = decode(image, background, reduction, self._room(3 * height * width))
        if isinstance(decoded, Image.Image):
            decoded = np.array(decoded)
            height, width, _ = decoded.shape
        first, scales = self._keep(decoded), (width / image.width, height / image.height)
        boxes = [whole_pixels(crop.box, *scales, width, height) for crop in crops]
        self._regions[place] = [
            (first + top * width + left, width, bottom - top, right - left, int(crop.flip))
            for (left, top, right, bottom), crop in zip(boxes, crops, strict=True)
        ]

    def _room(self, num_bytes: int) -> Pixels:
        """The free memory, uint8 (N,), N >= num_bytes."""
        needed = self._used + num_bytes
        if needed > len(self._memory):
            size = max(needed, int(_ROOM * num_bytes * len(self._regions)), 2 * len(self._memory))
            larger = empty_pixels(size)
            larger[: self._used] = self._memory[: self._used]
            self._memory = larger
        free: Pixels = self._memory[self._used :].numpy()
        return free

    def _keep(self, pixels: Pixels) -> int:
        """Keep pixels, uint8 (H, W, 3), which may be in the free memory already; returns the number of the first."""
        room, first = self._room(pixels.nbytes), self._used // 3
        if not np.may_share_memory(room, pixels):
            room[: pixels.nbytes].reshape(pixels.shape)[...] = pixels
        self._used += pixels.nbytes
        return first

    def finish(self, batch: Batch, fields: Sequence[str]) -> UncutBatch:
        """The batch with what the device needs to cut these fields, those of the distributions in order."""
        crops, before = {}, 0
        for name, one in zip(fields, self._distributions, strict=True):
            numbers = range(before, before + one.number)
            regions = [of_image[number] for number in numbers for of_image in self._regions]
            crops[name] = _uncut(np.array(regions, dtype=np.int64).reshape(-1, REGION_FIELDS), one.size)
            before += one.number
        return UncutBatch(batch=batch, pixels=self._memory[: self._used], crops=crops)


def _uncut(regions: Any, size: int) -> UncutCrops:
    """The crops of one size; those with regions of a similar height follow each other in the order of cutting."""
    order = np.lexsort((regions[:, 3], regions[:, 2]))
    chunks = list(_chunks(regions[order, 2:4].tolist()))
    return UncutCrops(size=size, regions=torch.from_numpy(regions), order=torch.from_numpy(order), chunks=chunks)


def _chunks(sides: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Number, largest height and largest width of consecutive regions that are cut together."""
    number = tallest = widest = 0
    for height, width in sides:
        if number and (number + 1) * max(tallest, height) * max(widest, width) > _CHUNK_PIXELS:
            yield number, tallest, widest
            number = tallest = widest = 0
        number, tallest, widest = number + 1, max(tallest, height), max(widest, width)
    if number:
        yield number, tallest, widest


@torch.no_grad()
def cut(batch: UncutBatch, dtype: torch.dtype | None = None) -> Batch:
    """The batch with its crops, cut on the device that its tensors are on.

    Args:
        batch: From `UncutWriter.finish`.
        dtype: Of the products of matrices; `None`: float16 on a CUDA device, which multiplies it fastest and holds
            pixels exactly, float32 elsewhere.
    """
    device = batch.pixels.device
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    pixels_N3 = batch.pixels.view(-1, 3)
    with torch.autocast(device.type, enabled=False):
        found = {name: _cut(pixels_N3, crops, dtype) for name, crops in batch.crops.items()}
    shapes = {name: getattr(batch.batch, name).shape[:-3] for name in found}
    fields: dict[str, Any] = {name: crops.unflatten(0, shapes[name]) for name, crops in found.items()}
    return replace(batch.batch, **fields)


def _cut(pixels_N3: Tensor, crops: UncutCrops, dtype: torch.dtype) -> Tensor:
    """All crops of one size, uint8 (K, 3, size, size), the channels of a pixel adjacent in memory."""
    found_KYXC = pixels_N3.new_empty(len(crops.order), crops.size, crops.size, 3)
    start = 0
    for number, height, width in crops.chunks:
        places = crops.order[start : start + number]
        found_KYXC[places] = _resized(pixels_N3, crops.regions[places], crops.size, height, width, dtype)
        start += number
    return found_KYXC.permute(0, 3, 1, 2)


def _resized(pixels_N3: Tensor, regions_KF: Tensor, size: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """The regions, of which none is higher or wider than given, resized; uint8 (K, size, size, 3)."""
    number = len(regions_KF)
    first_K, stride_K, height_K, width_K, flip_K = regions_KF.unbind(1)
    rows_KYH = resizing_weights(height_K, size, height)
    columns_KXW = resizing_weights(width_K, size, width)
    columns_KXW = torch.where(flip_K[:, None, None] == 1, columns_KXW.flip(1), columns_KXW)
    down_KH = torch.minimum(torch.arange(height, device=height_K.device), height_K[:, None] - 1)
    across_KW = torch.minimum(torch.arange(width, device=width_K.device), width_K[:, None] - 1)
    places_KHW = (first_K[:, None] + stride_K[:, None] * down_KH)[:, :, None] + across_KW[:, None]
    pixels_KHCW = pixels_N3[places_KHW].transpose(2, 3).to(dtype)  # behind a region any pixel, which has a weight of 0
    # Between the two products the CPU rounds to whole pixels, which cuts what the filter overshoots.
    narrow = pixels_KHCW.reshape(number, height * 3, width) @ columns_KXW.to(dtype).mT
    narrow_KHCX = narrow.round_().clamp_(0, 255).view(number, height, 3 * size)
    found_KYCX = (rows_KYH.to(dtype) @ narrow_KHCX).round_().clamp_(0, 255)
    return found_KYCX.view(number, size, 3, size).transpose(2, 3).to(torch.uint8)


def resizing_weights(length_K: Tensor, size: int, longest: int) -> Tensor:
    """The weights that resize lines of pixels to `size` pixels each.

    Args:
        length_K: int64 (K,), pixels of each line, at most `longest`.
        size: Pixels of the result.
        longest: Width of the weights, which are 0 behind the end of a line.

    Returns:
        float32 (K, size, longest); each row sums to 1.
    """
    scale_K11 = (length_K.float() / size)[:, None, None]
    centre_KS1 = scale_K11 * (torch.arange(size, device=length_K.device)[:, None] + 0.5)
    place_L = torch.arange(longest, device=length_K.device)
    weights_KSL = _bicubic((place_L + 0.5 - centre_KS1).abs() / scale_K11.clamp(min=1.0))
    weights_KSL = weights_KSL * (place_L < length_K[:, None])[:, None]
    return weights_KSL / weights_KSL.sum(dim=2, keepdim=True)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys's filter with a = -0.5 at a distance >= 0."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < _SUPPORT, far, 0.0))
