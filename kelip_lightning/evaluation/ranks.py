"""Exact ranks of correct items, in blocks of queries.

Shapes: N queries, M gallery items, B queries of a block, P positives (correct pairs), C correct items of a query.

Ties, everywhere but in `topk_hits`: a wrong item with the same score as the correct one is ranked before it. A
collapsed model, for which all scores are equal, therefore has recall 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.evaluation.metric_names import RECALL_KS

TIE_RULES = ("pessimistic", "topk")
"""How a wrong item with the score of the best correct one counts: as better, or as `torch.topk` orders the two."""

_BLOCK_SCORES = 1 << 23
"""Most scores in memory at a time, 32 MiB in float32."""


class Outcomes(NamedTuple):
    """The outcome of each query."""

    ranks: Tensor
    """int64 (N,), 0 is best: wrong items that score at least as high as the best correct one."""
    topk_hits: Tensor
    """bool (N, number of k): whether `torch.topk` has a correct item among the first k."""


@dataclass(frozen=True, slots=True)
class QueryOutcomes:
    """The outcomes of all queries of a task, on the CPU, under both tie rules."""

    ids: Tensor
    """int64 (N,), ascending: what the queries were added under."""
    pessimistic_ranks: Tensor
    """int64 (N,), 0 is best."""
    topk_hits: Tensor
    """bool (N, number of k)."""
    ks: tuple[int, ...]
    """The k of `topk_hits`, ascending."""

    def ranks(self, tie_rule: str) -> Tensor:
        """int64 (N,), below k where the rule has a hit at k; under topk, exact below the largest k only.

        Among many equal scores the items that `torch.topk` finds for a small k need not be among those for a larger
        one; under topk a hit at the small k then counts at the larger one too, which `recall` does not.
        """
        ranks = self.pessimistic_ranks
        if tie_rule == "topk":
            for column, k in reversed(list(enumerate(self.ks))):
                ranks = torch.where(self.topk_hits[:, column], ranks.clamp(max=k - 1), ranks)
        return ranks

    def recall(self, k: int, tie_rule: str) -> float:
        """The share of hits at k, one of `ks`, in [0, 1]."""
        if tie_rule == "topk":
            return self.topk_hits[:, self.ks.index(k)].double().mean().item()
        return recall_at(self.pessimistic_ranks, (k,))[k]


def checked_tie_rule(tie_rule: str) -> str:
    """The rule.

    Raises:
        ValueError: It is none of `TIE_RULES`.
    """
    if tie_rule not in TIE_RULES:
        raise ValueError(f"tie_rule = {tie_rule!r} must be one of {', '.join(TIE_RULES)}")
    return tie_rule


def block_size(num_gallery: int) -> int:
    """Queries of a block: a function of the gallery's size alone, so that scores are equal on any number of ranks."""
    return max(1, min(1024, _BLOCK_SCORES // max(num_gallery, 1)))


def padded_positives(positives: Tensor, num_queries: int) -> Tensor:
    """The correct gallery items of each query, int64 (N, C), filled up with -1.

    Args:
        positives: int64 (P, 2), pairs (query, gallery item), each once.
        num_queries: N.

    Raises:
        ValueError: A query has no correct item, or a pair occurs twice.
    """
    pairs = torch.unique(positives, dim=0)  # sorted by query
    if len(pairs) < len(positives):
        raise ValueError(f"positives holds {len(positives) - len(pairs)} pairs twice; give each pair once")
    counts = torch.bincount(pairs[:, 0], minlength=num_queries)
    if len(counts) > num_queries or not bool((counts > 0).all()):
        raise ValueError("every query must have at least one correct item in the gallery")
    first = counts.cumsum(0) - counts
    place = torch.arange(len(pairs), device=pairs.device) - first.repeat_interleave(counts)
    padded = torch.full((num_queries, int(counts.max())), -1, dtype=torch.int64, device=pairs.device)
    padded[pairs[:, 0], place] = pairs[:, 1]
    return padded


def outcomes_of_scores(scores: Tensor, correct: Tensor, ks: Sequence[int]) -> Outcomes:
    """Outcomes of one block.

    Args:
        scores: float32 (B, M).
        correct: int64 (B, C), the correct items of each query, filled up with -1.
        ks: The k of `topk_hits`; one above M counts every item.
    """
    own = scores.gather(1, correct.clamp(min=0)).masked_fill(correct < 0, -torch.inf)
    best = own.amax(dim=1, keepdim=True)
    ranks = (scores >= best).sum(dim=1) - (own >= best).sum(dim=1)
    hits = ranks[:, None] < torch.tensor(ks, dtype=torch.int64, device=ranks.device)
    # The rules differ only for queries of which a wrong item ties with the best correct one.
    tied = ((scores == best).sum(dim=1) > (own == best).sum(dim=1)).nonzero()[:, 0]
    for column, k in enumerate(ks) if len(tied) else ():
        found = scores[tied].topk(min(k, scores.shape[1]), dim=1).indices
        hits[tied, column] = (found[:, :, None] == correct[tied][:, None, :]).any(dim=2).any(dim=1)
    return Outcomes(ranks, hits)


def scores_of(queries: Tensor, gallery: Tensor) -> Tensor:
    """Cosines of unit rows, float32 (N, M), whatever the autocast around: lower precision would add ties."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ gallery.float().T


def retrieval_ranks(queries: Tensor, gallery: Tensor, target: Tensor, chunk: int = 1024) -> Tensor:
    """Rank of every query's one correct item in the gallery.

    Args:
        queries: (N, E), normalised.
        gallery: (M, E), normalised.
        target: (N,) int64, the gallery index of each query's correct item.
        chunk: Queries scored at a time; memory: chunk * M floats.

    Returns:
        (N,) int64, 0 is best: the number of other items that score at least as high as the correct one.

    Raises:
        ValueError: Shapes do not fit or a target is outside the gallery.
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


def best_correct_ranks(scores: Tensor, correct: Tensor) -> Tensor:
    """(N,) int64: wrong items that score at least as high as the best correct one; scores and bool mask (N, M)."""
    best = scores.masked_fill(~correct, -torch.inf).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~correct).sum(dim=1)


def recall_at(ranks: Tensor, ks: Sequence[int] = RECALL_KS) -> dict[int, float]:
    """Recall@k in [0, 1] for every k: the share of the ranks below k."""
    return {k: (ranks < k).double().mean().item() for k in ks}


def median_rank(ranks: Tensor) -> float:
    """Median rank, counted from 1 (best) as in the retrieval literature."""
    return ranks.double().quantile(0.5).item() + 1.0


def _score_chunks(queries: Tensor, gallery: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, scores (chunk, M)) in float32; lower precision would add ties."""
    gallery = gallery.float()
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        yield rows, scores_of(queries[rows], gallery)


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
