"""From images and texts to embeddings: batches in, L2-normalised finite float32 rows on the CPU out.

Shapes: N items, B items of a batch, E embedding width, C/H/W image, T tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.errors import DataError
from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.models.preprocessing import normalize_images

ImageEncode = Callable[[Tensor], Tensor]
"""uint8 images (B, 3, H, W) -> features (B, E), any float dtype, any device."""

TextEncode = Callable[[list[str]], Tensor]
"""B texts -> features (B, E), any float dtype, any device."""


class ImageTextModel(Protocol):
    """Interface of an evaluated model; `DualEncoder` implements it."""

    @property
    def logit_scale(self) -> Tensor:
        """On the model's device and in its dtype."""

    def encode_image(self, images: Tensor, /, l2norm: bool = True) -> Tensor:
        """Normalised float images (B, 3, H, W) -> (B, E)."""

    def encode_text(self, tokens: Tensor, /, l2norm: bool = True) -> Tensor:
        """Token ids (B, T) int64 -> (B, E)."""


class TextTokenizer(Protocol):
    """Interface of a tokenizer; `BilingualTokenizer` implements it."""

    def encode(self, texts: list[str], /) -> Tensor:
        """B texts -> padded token ids (B, T) int64."""


Precision = Callable[[], AbstractContextManager[Any]]
"""Enters the arithmetic of an evaluation, autocast for example."""


def image_encode_function(
    model: ImageTextModel, precision: Precision | None = None, *, l2norm: bool = True
) -> ImageEncode:
    """uint8 images (B, 3, H, W) -> (B, E), on the model's device.

    Args:
        model: Its parameters may be float32 or bfloat16.
        precision: Entered around the model; `None`: autocast is disabled.
        l2norm: Whether rows are float32 of unit length; else they are as the model gives them.
    """

    def encode(images: Tensor) -> Tensor:
        scale = model.logit_scale
        with precision() if precision else torch.autocast(scale.device.type, enabled=False):
            features = model.encode_image(normalize_images(images.to(scale.device)).to(scale.dtype), l2norm=False)
        return F.normalize(features.float(), dim=-1) if l2norm else features

    return encode


def text_encode_function(
    model: ImageTextModel, tokenizer: TextTokenizer, precision: Precision | None = None, *, l2norm: bool = True
) -> TextEncode:
    """B texts -> (B, E), on the model's device; arguments as in `image_encode_function`."""

    def encode(texts: list[str]) -> Tensor:
        device = model.logit_scale.device
        with precision() if precision else torch.autocast(device.type, enabled=False):
            features = model.encode_text(tokenizer.encode(texts).to(device), l2norm=False)
        return F.normalize(features.float(), dim=-1) if l2norm else features

    return encode


def embed_images(encode: ImageEncode, images: Tensor, batch_size: int = 256) -> Tensor:
    """Embed images in batches, without gradients.

    Args:
        encode: uint8 images (B, 3, H, W) -> features (B, E).
        images: (N, 3, H, W), uint8, N at least 1.
        batch_size: Images per call of `encode`.

    Returns:
        (N, E) float32 on the CPU, unit length.

    Raises:
        ValueError: `images` is not a non-empty uint8 (N, 3, H, W) tensor.
        NonFiniteEmbeddingsError: Features hold NaN or infinity.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(
            f"images must be uint8 of shape (N, 3, H, W), N >= 1, got {images.dtype} {tuple(images.shape)}"
        )
    # Not inference_mode: a tensor that the model caches on first use (a resampled position embedding) would
    # otherwise be unusable in the training steps that follow.
    with torch.no_grad():
        features = torch.cat([unit_rows(encode(batch)) for batch in torch.split(images, batch_size)])
    require_finite(features, "image")
    return features


def embed_texts(encode_texts: TextEncode, texts: Sequence[str], batch_size: int = 512) -> Tensor:
    """Embed texts in batches, without gradients.

    Texts are sorted by length before batching, because the encoder pads to the longest text of a batch.

    Args:
        encode_texts: B texts -> features (B, E).
        texts: N texts, N at least 1.
        batch_size: Texts per call of `encode_texts`.

    Returns:
        (N, E) float32 on the CPU, unit length, in the order of `texts`.

    Raises:
        ValueError: There is no text.
        NonFiniteEmbeddingsError: Features hold NaN or infinity.
    """
    if not texts:
        raise ValueError("texts must hold at least one text, got none")
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    with torch.no_grad():
        batches = [
            unit_rows(encode_texts([texts[index] for index in order[start : start + batch_size]]))
            for start in range(0, len(order), batch_size)
        ]
    features = torch.empty(len(texts), batches[0].shape[1])
    features[torch.tensor(order)] = torch.cat(batches)
    require_finite(features, "text")
    return features


def unit_rows(features: Tensor) -> Tensor:
    """L2-normalised rows, computed in float32, on the CPU."""
    return F.normalize(features.detach().float(), dim=-1).cpu()


def require_finite(rows: Tensor, what: str) -> None:
    """Refuse NaN and infinity: comparisons with NaN are false, so a NaN score would rank first.

    Args:
        rows: (N, E), any float dtype, any device.
        what: What a row embeds, for the message: image, text, class, ...

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity; with the number of such rows.
    """
    # Not isfinite(rows): a gallery of millions would need a mask of its own size.
    lowest, highest = torch.aminmax(rows.detach(), dim=1)
    num_bad = len(rows) - int((lowest.isfinite() & highest.isfinite()).sum())
    if num_bad:
        raise NonFiniteEmbeddingsError(
            f"{num_bad} of {len(rows)} {what} embeddings are not finite (NaN or infinite) and cannot be ranked, so the "
            "weights that made them are broken; use a checkpoint from before they broke"
        )


@contextmanager
def error_context(place: str) -> Iterator[None]:
    """Prefix errors of `require_finite` and of data with an evaluation set or a step.

    Raises:
        NonFiniteEmbeddingsError, DataError: With the prefix.
    """
    try:
        yield
    except NonFiniteEmbeddingsError as error:
        raise NonFiniteEmbeddingsError(f"{place}: {error}") from error
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
