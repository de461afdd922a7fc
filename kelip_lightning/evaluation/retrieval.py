"""Ranks and recalls of retrieval between two sets of embeddings.

Shapes: N queries, M gallery items, E embedding width.

Tie rule, everywhere: a gallery item that scores exactly as much as the right one counts as ranked
before it. A collapsed model, for which all scores are equal, therefore gets no recall at all
instead of whatever a sort happened to give.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kelip_lightning.evaluation.finite import require_finite

RECALL_KS = (1, 5, 10)
"""The K of the reported R@K."""


def retrieval_ranks(queries: Tensor, gallery: Tensor, target: Tensor, chunk: int = 1024) -> Tensor:
    """Rank of every query's one right item in the gallery.

    Args:
        queries: (N, E), normalised.
        gallery: (M, E), normalised.
        target: (N,) int64, the gallery index of each query's right item.
        chunk: Queries scored at a time; bounds the memory at chunk * M floats.

    Returns:
        (N,) int64, 0 is best: the number of other items that score at least as high as the right one.

    Raises:
        ValueError: If the shapes do not fit or a target is outside the gallery.
        NonFiniteEmbeddingsError: Queries or gallery hold NaN or infinity.
    """
    _check(queries, gallery, target, len(queries))
    if len(target) and not (int(target.min()) >= 0 and int(target.max()) < len(gallery)):
        raise ValueError(f"target must lie in [0, {len(gallery)}), got {int(target.min())} to {int(target.max())}")
    ranks = []
    for rows, scores in _score_chunks(queries, gallery, chunk):
        own = scores.gather(1, target[rows, None])
        ranks.append((scores >= own).sum(dim=1) - 1)
    return torch.cat(ranks)


def group_ranks(
    queries: Tensor, gallery: Tensor, query_groups: Tensor, gallery_groups: Tensor, chunk: int = 1024
) -> Tensor:
    """Rank of the best right item of every query, where all items of the query's group are right.

    Args:
        queries: (N, E), normalised.
        gallery: (M, E), normalised.
        query_groups: (N,) int64; every group has at least one gallery item.
        gallery_groups: (M,) int64.
        chunk: Queries scored at a time.

    Returns:
        (N,) int64, 0 is best: the number of wrong items that score at least as high as the best
        right one. `rank < k` says that one of the right items is among the first k.

    Raises:
        ValueError: If the shapes do not fit or a query has no right item.
        NonFiniteEmbeddingsError: Queries or gallery hold NaN or infinity.
    """
    _check(queries, gallery, gallery_groups, len(gallery))
    if not bool(torch.isin(query_groups, gallery_groups).all()):
        raise ValueError("every query must have at least one right item in the gallery")
    ranks = []
    for rows, scores in _score_chunks(queries, gallery, chunk):
        right = query_groups[rows, None] == gallery_groups[None, :]
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((scores >= best) & ~right).sum(dim=1))
    return torch.cat(ranks)


def recall_at(ranks: Tensor, ks: Sequence[int] = RECALL_KS) -> dict[int, float]:
    """Share of the queries whose right item is among the first k, in [0, 1], for every k."""
    return {k: (ranks < k).double().mean().item() for k in ks}


def median_rank(ranks: Tensor) -> float:
    """Median position of the right item, counted from 1 (1.0 is best), as the retrieval literature has it."""
    return ranks.double().quantile(0.5).item() + 1.0


def _score_chunks(queries: Tensor, gallery: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, scores (chunk, M)) in float32; lower precision would invent ties."""
    gallery = gallery.float()
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        yield rows, queries[rows].float() @ gallery.T


def _check(queries: Tensor, gallery: Tensor, index: Tensor, expected: int) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1] or not len(queries):
        raise ValueError(
            f"queries (N, E) and gallery (M, E) must share E and hold at least one query, "
            f"got {tuple(queries.shape)} and {tuple(gallery.shape)}"
        )
    if index.shape != (expected,):
        raise ValueError(f"expected {expected} indices, got shape {tuple(index.shape)}")
    require_finite(queries, "query")
    require_finite(gallery, "gallery")
