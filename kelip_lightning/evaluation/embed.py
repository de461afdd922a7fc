"""Embeddings of many images or texts, in batches, as normalised float32 rows on the CPU.

Shapes: N items, E embedding width, C/H/W image.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kelip_lightning.evaluation.finite import require_finite

ImageEncode = Callable[[Tensor], Tensor]
"""uint8 images (B, 3, H, W) -> features (B, E), any float dtype, any device."""

TextEncode = Callable[[list[str]], Tensor]
"""B texts -> features (B, E), any float dtype, any device."""


def embed_images(encode: ImageEncode, images: Tensor, batch_size: int = 256) -> Tensor:
    """Embeds images in batches, without gradients.

    Args:
        encode: Maps uint8 images (B, 3, H, W) to features (B, E); moves them to its own device itself.
        images: (N, 3, H, W), uint8, N at least 1.
        batch_size: Images per call of `encode`.

    Returns:
        (N, E) float32 on the CPU, every row of length one.

    Raises:
        ValueError: If `images` is not a non-empty uint8 (N, 3, H, W) tensor.
        NonFiniteEmbeddingsError: Features hold NaN or infinity.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(
            f"images must be uint8 of shape (N, 3, H, W), N >= 1, got {images.dtype} {tuple(images.shape)}"
        )
    # no_grad and not inference_mode: a tensor that the model caches on first use (a resampled
    # position table, say) would otherwise be unusable in the training steps that follow.
    with torch.no_grad():
        features = torch.cat([unit_rows(encode(batch)) for batch in torch.split(images, batch_size)])
    require_finite(features, "image")
    return features


def embed_texts(encode_texts: TextEncode, texts: Sequence[str], batch_size: int = 512) -> Tensor:
    """Embeds texts in batches, without gradients.

    Texts are grouped by length before batching, because the encoder pads to the longest text
    of a batch; the rows come back in the order of `texts`.

    Args:
        encode_texts: Maps B texts to features (B, E).
        texts: N texts, N at least 1.
        batch_size: Texts per call of `encode_texts`.

    Returns:
        (N, E) float32 on the CPU, every row of length one.

    Raises:
        ValueError: If there is no text.
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
    """Rows of length one, float32, on the CPU (the length is taken in float32 whatever came in)."""
    return F.normalize(features.detach().float(), dim=-1).cpu()


class Embeddings:
    """What one state of the model makes of images and texts; each is embedded once.

    Make a new one after every training step that should count.
    """

    def __init__(self, encode_images: ImageEncode, encode_texts: TextEncode, batch_size: int = 256) -> None:
        """Remembers the encoders; embeds nothing yet.

        Args:
            encode_images: uint8 images (B, 3, H, W) -> (B, E).
            encode_texts: B texts -> (B, E).
            batch_size: Images per call of `encode_images`; twice as many texts go into one call.
        """
        self._encode_images = encode_images
        self._encode_texts = encode_texts
        self._batch_size = batch_size
        self._text_rows: dict[str, Tensor] = {}
        self._image_rows: dict[bytes, Tensor] = {}

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, E) normalised. Remembered by text, because small galleries are parts of large ones."""
        new = [text for text in dict.fromkeys(texts) if text not in self._text_rows]
        if new:
            rows = embed_texts(self._encode_texts, new, 2 * self._batch_size)
            self._text_rows |= dict(zip(new, rows, strict=True))
        return torch.stack([self._text_rows[text] for text in texts])

    def images(self, images: Tensor, digests: Sequence[bytes]) -> Tensor:
        """(N, E) normalised. Remembered by picture, because sets are cut from the same tables.

        Args:
            images: (N, 3, H, W), uint8, N at least 1.
            digests: N, from `image_digests`.
        """
        new: dict[bytes, int] = {}
        for place, digest in enumerate(digests):
            if digest not in self._image_rows:
                new.setdefault(digest, place)
        if new:
            chosen = images if len(new) == len(images) else images[list(new.values())]
            rows = embed_images(self._encode_images, chosen, self._batch_size)
            self._image_rows |= dict(zip(new, rows, strict=True))
        return torch.stack([self._image_rows[digest] for digest in digests])
