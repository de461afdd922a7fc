"""The records and batches that travel from disk to a training step.

Shapes: B pairs of one device, V views (crops of one size), C/H/W image, T text tokens, P patches.
"""

from dataclasses import dataclass, field

from torch import Tensor

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
    keywords: tuple[str, ...] = ()
    """Further words that fit the image, same language; empty where the source has none."""
    attributes: dict[str, str] = field(default_factory=dict)
    """The source's remaining columns as text (group, design, split, ...)."""


@dataclass(slots=True, kw_only=True)
class ImageBatch:
    """A batch of the MAE warm-up."""

    images: Tensor
    """uint8 (B, 3, H, W)."""
    noise: Tensor
    """float32 (B, P), uniform in [0, 1): the patches with the lowest noise stay visible."""
    sample_ids: Tensor
    """int64 (B,), which record each image came from."""
    sample_seeds: Tensor
    """int64 (B,), each in [0, 2**63): seeds of what the model draws per sample; see `sampling.Draw.model_seed`."""


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
