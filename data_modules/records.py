"""The records and batches between disk and training step.

Shapes: B pairs of one device, V views (crops of one size), C/H/W image, T text tokens, P patches.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from data_modules.faults import FaultReport

Section = TypeVar("Section")

LANGUAGES: tuple[str, ...] = ("ko", "en")
"""Language codes; a language's position here is its index in `ImageTextBatch.languages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """One image-text pair as its source stores it, with the image still encoded."""

    key: str
    """Identity of the image inside its source, for logs (for example `twemoji/1f34e`)."""
    image: bytes
    """The encoded image file (WebP, PNG, JPEG, ...)."""
    language: str
    """Language of the captions, one of `LANGUAGES`; empty for an image of a source without captions."""
    caption: str
    """The caption, or the name of the depicted thing; empty for an image of a source without captions."""
    more_captions: tuple[str, ...] = ()
    """Further captions of the same image and language; one of all is sampled each time."""
    keywords: tuple[str, ...] = ()
    """Keywords of the image in the same language; empty if the source has none."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Other columns as text: of parquet files those that the settings name, or a language rule may; else all."""
    file_name: str = ""
    """Name of the image file, if it has one; its ending is compared with the content."""
    repairs: tuple[str, ...] = ()
    """Repairs of the captions, kinds of `faults.REPAIRED`."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """What the batches of both stages have in common."""

    sample_ids: Tensor
    """int64 (B,), id of each sample."""
    sample_seeds: Tensor
    """int64 (B,), each in [0, 2**63): seeds of what the model samples per item; see `streams.model_seeds`."""
    faults: list[FaultReport] = field(default_factory=list)
    """Skipped and repaired samples."""

    def pin_memory(self) -> Self:
        """The batch in page-locked memory; the loader calls it if there is a GPU."""
        return _pinned(self)


@dataclass(slots=True, kw_only=True)
class ImageBatch(Batch):
    """A batch of MAE pre-training."""

    images: Tensor
    """uint8 (B, 3, H, W)."""
    noise: Tensor
    """float32 (B, P), uniform in [0, 1): the patches with the lowest noise stay visible."""


@dataclass(slots=True, kw_only=True)
class ImageTextBatch(Batch):
    """A batch of contrastive training: each pair's crops and one tokenized caption."""

    global_crops: Tensor
    """uint8 (V, B, 3, H, W), V >= 1 crops of most of the image."""
    local_crops: Tensor
    """uint8 (V', B, 3, h, w), V' >= 0 low-resolution crops of a part of it."""
    tokens: Tensor
    """int64 (B, T), padded to the longest caption of the batch."""
    languages: Tensor
    """int64 (B,), index into `LANGUAGES`."""
    captions: list[str]
    """The sampled captions, for logs."""
    token_counts: list[int] = field(default_factory=list)
    """Tokens of each caption, start and end included, which the host knows without reading the device; empty: not
    counted."""
    views: Tensor = field(default_factory=lambda: torch.empty(0, 0, 3, 0, 0, dtype=torch.uint8))
    """uint8 (V'', B, 3, H, W), V'' = 2 strongly augmented crops for a self-supervised loss, or 0."""


REGION_FIELDS = 5
"""Columns of `UncutCrops.regions`."""


@dataclass(slots=True, kw_only=True)
class UncutCrops:
    """K crops of one size, to be cut out of the pixels of their batch; see `images.transforms.uncut`."""

    size: int
    """Side of the result in pixels."""
    regions: Tensor
    """int64 (K, 5): number of the first pixel, pixels from one row to the next, height, width, 1 if flipped."""
    order: Tensor
    """int64 (K,), the order in which they are cut."""
    chunks: list[tuple[int, int, int]]
    """Crops that are cut together: their number, and the largest height and width of their regions."""


@dataclass(slots=True, kw_only=True)
class UncutBatch:
    """A batch whose crops are cut on the device, where `uncut.cut` makes a `batch` of it."""

    batch: Batch
    """Without crops: the other tensors, and placeholders."""
    pixels: Tensor
    """uint8 (N,), red, green and blue of all pixels of all images."""
    crops: dict[str, UncutCrops]
    """Field of the batch -> its crops, in the order of the field's first dimensions."""

    def pin_memory(self) -> Self:
        """The batch in page-locked memory; the loader calls it if there is a GPU."""
        crops = {name: _pinned(one) for name, one in self.crops.items()}
        return replace(_pinned(self), batch=self.batch.pin_memory(), crops=crops)


def _pinned(section: Section) -> Section:
    """The section with its tensors in page-locked memory."""
    given: Any = section
    values = {field.name: getattr(section, field.name) for field in fields(given)}
    tensors = {name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)}
    pinned: Section = replace(given, **tensors)
    return pinned


def empty_pixels(*shape: int) -> Tensor:
    """Uninitialised memory of a batch, uint8, shared with the parent process in a `DataLoader` worker."""
    if get_worker_info() is None or not math.prod(shape):
        return torch.empty(shape, dtype=torch.uint8)
    # As torch's `default_collate` does; torch would move other tensors to shared memory when they are sent.
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
