"""Samples made one at a time: through the batch code, and as a reference that shares no random or pixel code with it.

The reference is how samples were made before batches had memory of their own: a `SeedSequence` per sample, one random
number per call, an array per crop, and arrays that are stacked.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from data_modules.faults import FaultReport, SampleFault
from data_modules.images.decoding import EncodedImage, decode, open_image
from data_modules.images.transforms.crops import Background, Box, CutWriter
from data_modules.images.transforms.multi_crop import MultiCrop, MultiCropConfig
from data_modules.order.sampling import Draw
from data_modules.records import PairRecord
from data_modules.sources.rows import PairSource

MAX_LOG_ASPECT = math.log(4 / 3)
Found = PairRecord | tuple[str, str, str]
"""A record, or kind, detail and key of its fault."""


class CropsOfOne(NamedTuple):
    """The crops of one image, uint8 (V, 3, S, S) each."""

    global_crops: np.ndarray
    local_crops: np.ndarray
    views: np.ndarray


def records_alone(source: PairSource, indices: Iterable[int]) -> list[Found]:
    """The pairs at these indices, each read by itself."""
    found: list[Found] = []
    for index in indices:
        try:
            found.append(source[index])
        except SampleFault as fault:
            found.append((fault.kind, fault.detail, fault.key))
    return found


def records_together(source: PairSource, indices: Sequence[int]) -> list[Found]:
    """The pairs at these indices, read together."""
    found = source.records(indices)
    return [(one.kind, one.detail, one.key) if isinstance(one, SampleFault) else one for one in found]


def cut(data: bytes, config: MultiCropConfig, generator: np.random.Generator) -> CropsOfOne:
    """The crops of an image as a batch of one."""
    transform = MultiCrop(config)
    writer = CutWriter(transform.distributions, 1, transform.write)
    writer.write(0, transform.sample(open_image(data), generator))
    return CropsOfOne(*(crops[:, 0].numpy() for crops in writer.crops))


def stream_of(seed: int, draw: Draw) -> np.random.Generator:
    """The stream of a sample."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 2, draw.step, draw.sample_id])))


def model_seed_of(seed: int, draw: Draw) -> int:
    """The seed of what the model samples for a sample."""
    words = np.random.SeedSequence([seed, 3, draw.step, draw.sample_id]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def background_of(background: Background, generator: np.random.Generator) -> tuple[int, int, int]:
    """The background of a sample."""
    low = 192 if background is Background.light else 0
    red, green, blue = (int(value) for value in generator.integers(low, 256, size=3))
    return (255, 255, 255) if background is Background.white else (red, green, blue)


def box_of(width: int, height: int, low: float, high: float, generator: np.random.Generator) -> Box:
    """A random box."""
    area = width * height * generator.uniform(low, high)
    aspect = math.exp(generator.uniform(-MAX_LOG_ASPECT, MAX_LOG_ASPECT))
    box_width = min(float(width), math.sqrt(area * aspect))
    box_height = min(float(height), math.sqrt(area / aspect))
    left = generator.uniform(0.0, 1.0) * (width - box_width)
    top = generator.uniform(0.0, 1.0) * (height - box_height)
    return left, top, left + box_width, top + box_height


def crops_of(
    image: EncodedImage,
    kinds: Sequence[tuple[int, int, float, float, float]],
    background: Background,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """The crops of an image, uint8 (V, 3, S, S) for each of `kinds`: V, S, smallest and largest scale, flip."""
    colour = background_of(background, generator)
    sampled = [
        (box_of(image.width, image.height, low, high, generator), size, generator.uniform() < flip)
        for number, size, low, high, flip in kinds
        for _ in range(number)
    ]
    sides = [min(right - left, bottom - top) / size for (left, top, right, bottom), size, _ in sampled]
    reduction = max(one for one in (1, 2, 4, 8) if one <= max(1.0, min(sides)))
    decoded = np.array(decode(image, colour, reduction if image.is_plain_jpeg else 1))
    scales = decoded.shape[1] / image.width, decoded.shape[0] / image.height
    crops = [crop_of(torch.from_numpy(decoded), *one, *scales) for one in sampled]
    ends = np.cumsum([number for number, *_ in kinds])
    return [
        np.stack(crops[end - number : end]) if number else np.empty((0, 3, size, size), dtype=np.uint8)
        for end, (number, size, *_) in zip(ends, kinds, strict=True)
    ]


def crop_of(
    decoded: torch.Tensor, box: Box, size: int, flip: bool, scale_x: float = 1.0, scale_y: float = 1.0
) -> np.ndarray:
    """A crop, uint8 (3, size, size), of uint8 (H, W, 3)."""
    height, width, _ = decoded.shape
    left, top = min(round(box[0] * scale_x), width - 1), min(round(box[1] * scale_y), height - 1)
    right = min(max(round(box[2] * scale_x), left + 1), width)
    bottom = min(max(round(box[3] * scale_y), top + 1), height)
    crop = decoded.permute(2, 0, 1)[None, :, top:bottom, left:right]
    if crop.shape[2:] != (size, size):
        crop = F.interpolate(crop, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return (crop.flip(3) if flip else crop)[0].numpy()


class Made(NamedTuple):
    """What became of a draw."""

    draw: Draw
    """The one that is used."""
    record: PairRecord
    faults: list[FaultReport]


def made_from(source: PairSource, draw: Draw, first_id: int = 0) -> Made:
    """The record that a draw gets, and its faults, reading rows one by one.

    Args:
        source: Its source.
        draw: The draw.
        first_id: The id of the source's first sample.
    """
    faults: list[FaultReport] = []
    for attempt in range(25):
        distance = (1 << (attempt - 1)) + attempt - 1 if attempt else 0
        place = (draw.sample_id - first_id + distance) % len(source)
        tried = Draw(draw.step, first_id + place, draw.language)
        repairs: list[str] = []
        try:
            record = source[place]
            if attempt and draw.language not in (None, record.language):
                continue
            decode(open_image(record.image, record.file_name, repairs))
        except SampleFault as fault:
            key = fault.key or record.key
            faults.append(FaultReport(fault.kind, source.name, key, tried.sample_id, tried.step, fault.detail))
            continue
        kinds = [*repairs, *record.repairs]
        faults += [FaultReport(one, source.name, record.key, tried.sample_id, tried.step, "repaired") for one in kinds]
        return Made(tried, record, faults)
    raise AssertionError("nothing usable")
