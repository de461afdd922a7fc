"""Similarity of Korean and English texts of the same meaning.

Shapes: N captions, E embedding width.
"""

import torch.nn.functional as F
from torch import Tensor

from kelip_lightning.evaluation.embed import require_finite


def centre(features: Tensor) -> Tensor:
    """Rows minus their mean row, normalised again; (N, E).

    The mean is the offset of a language from the other (the modality gap of Liang et al. 2022, arXiv:2203.02053,
    between languages); it is independent of meaning.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity, which the mean would spread to all.
    """
    require_finite(features, "caption")
    return F.normalize(features - features.mean(dim=0), dim=-1)


def matched_and_random(ko: Tensor, en: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of each caption with its translation, and with the translations of all others.

    Args:
        ko: (N, E) unit rows, N at least 2.
        en: (N, E) unit rows, translations of the same index.

    Returns:
        (N,) cosine with the own translation, and (N,) mean cosine with the others, averaged over both directions,
        without an N x N matrix.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    require_finite(ko, "ko caption")
    require_finite(en, "en caption")
    matched = (ko * en).sum(dim=1)
    to_all = (ko @ en.sum(dim=0) + en @ ko.sum(dim=0)) / 2
    return matched, (to_all - matched) / (len(ko) - 1)


def matched_minus_random(ko: Tensor, en: Tensor) -> Tensor:
    """Cosine of translations minus that of other captions, after centring; float64 (N,) in [-2, 2]."""
    matched, random = matched_and_random(centre(ko.double()), centre(en.double()))
    return matched - random
