"""The records and batches that travel from disk to a training step.

Shapes: B pairs of one device, V views (crops of one size), C/H/W image, T text tokens, P patches.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from data_modules.faults import FaultReport

LANGUAGES: tuple[str, ...] = ("ko", "en")
"""Language codes; a language's position here is its index in `ImageTextBatch.languages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """One image–text pair as its source stores it, nothing decoded."""

    key: str
    """Identity of the image inside its source, for logs (for example `twemoji/1f34e`)."""
    image: bytes
    """The encoded image file (WebP, PNG, JPEG, ...)."""
    language: str
    """Language of the captions, one of `LANGUAGES`."""
    caption: str
    """The caption, or the name of what is shown."""
    more_captions: tuple[str, ...] = ()
    """Further captions of the same image and language; one of all is drawn each time."""
    keywords: tuple[str, ...] = ()
    """Further words that fit the image, same language; empty where the source has none."""
    attributes: dict[str, str] = field(default_factory=dict)
    """The source's remaining columns as text (group, design, split, ...)."""
    file_name: str = ""
    """Name of the image file, where it has one; its ending is compared with the content."""
    repairs: tuple[str, ...] = ()
    """Kinds of `faults.REPAIRED` that the captions needed."""


AnyBatch = TypeVar("AnyBatch", bound="ImageBatch | ImageTextBatch")


def _pinned(batch: AnyBatch) -> AnyBatch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    pinned: Any = {name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)}
    return replace(batch, **pinned)


@dataclass(slots=True, kw_only=True)
class ImageBatch:
    """A batch of MAE pre-training."""

    images: Tensor
    """uint8 (B, 3, H, W)."""
    noise: Tensor
    """float32 (B, P), uniform in [0, 1): the patches with the lowest noise stay visible."""
    sample_ids: Tensor
    """int64 (B,), which record each image came from."""
    sample_seeds: Tensor
    """int64 (B,), each in [0, 2**63): seeds of what the model draws per sample; see `sampling.Draw.model_seed`."""
    faults: list[FaultReport] = field(default_factory=list)
    """What was skipped or repaired on the way to these samples."""

    def pin_memory(self) -> "ImageBatch":
        """The batch in page-locked memory; the loader calls it where there is a GPU."""
        return _pinned(self)


@dataclass(slots=True, kw_only=True)
class ImageTextBatch:
    """A batch of contrastive training: each pair's crops and one tokenized caption."""

    global_crops: Tensor
    """uint8 (V, B, 3, H, W), V >= 1 crops that show most of the image."""
    local_crops: Tensor
    """uint8 (V', B, 3, h, w), V' >= 0 low-resolution crops that show a part of it."""
    tokens: Tensor
    """int64 (B, T), padded to the longest caption of the batch."""
    languages: Tensor
    """int64 (B,), index into `LANGUAGES`."""
    sample_ids: Tensor
    """int64 (B,), which record each pair came from."""
    sample_seeds: Tensor
    """int64 (B,), each in [0, 2**63): seeds of what the model draws per sample; see `sampling.Draw.model_seed`."""
    captions: list[str]
    """The captions as drawn, for logs."""
    views: Tensor = field(default_factory=lambda: torch.empty(0, 0, 3, 0, 0, dtype=torch.uint8))
    """uint8 (V'', B, 3, H, W), V'' = 2 strongly augmented cuts for a self-supervised loss, or 0."""
    faults: list[FaultReport] = field(default_factory=list)
    """What was skipped or repaired on the way to these pairs."""

    def pin_memory(self) -> "ImageTextBatch":
        """The batch in page-locked memory; the loader calls it where there is a GPU."""
        return _pinned(self)
