"""Embeddings that hold NaN or infinity have no rank: every comparison with NaN is false, so nothing beats them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kelip_lightning.errors import NonFiniteEmbeddingsError


def require_finite(rows: Tensor, what: str) -> None:
    """Refuse embeddings that are not numbers; called by everything that embeds, ranks or compares.

    Args:
        rows: (N, E), any float dtype, any device.
        what: What a row is an embedding of: image, text, class, ...

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity; says how many do, and of how many.
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
def naming(place: str) -> Iterator[None]:
    """Errors of `require_finite` inside say where: an evaluation set, a step.

    Raises:
        NonFiniteEmbeddingsError: With the place in front.
    """
    try:
        yield
    except NonFiniteEmbeddingsError as error:
        raise NonFiniteEmbeddingsError(f"{place}: {error}") from error
