"""How near captions of one meaning lie in two languages, apart from how near the languages lie as a whole.

Captions of one language share an offset from those of the other (the language gap; Liang et al. 2022,
arXiv:2203.02053). It says nothing about meaning, so it is taken away first: see `centre`.

Shapes: N captions per language, E embedding width.
"""

import torch.nn.functional as F
from torch import Tensor

from kelip_lightning.evaluation.finite import require_finite


def centre(features: Tensor) -> Tensor:
    """Rows less their mean row, of unit length again; (N, E).

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity, which the mean would spread over all.
    """
    require_finite(features, "caption")
    return F.normalize(features - features.mean(dim=0), dim=-1)


def matched_and_random(ko: Tensor, en: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of each caption with its translation, and with the translations of all others.

    Args:
        ko: (N, E) unit rows, N at least 2.
        en: (N, E) unit rows, translations of the same index.

    Returns:
        (N,) cosine with the own translation, (N,) mean cosine with the others, both directions averaged; no N x N
        matrix is needed.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    require_finite(ko, "ko caption")
    require_finite(en, "en caption")
    matched = (ko * en).sum(dim=1)
    to_all = (ko @ en.sum(dim=0) + en @ ko.sum(dim=0)) / 2
    return matched, (to_all - matched) / (len(ko) - 1)


def matched_minus_random(ko: Tensor, en: Tensor) -> Tensor:
    """How much nearer each caption lies to its translation than to others, after centring; float64 (N,) in [-2, 2]."""
    matched, random = matched_and_random(centre(ko.double()), centre(en.double()))
    return matched - random
