"""Rankings of pictures and captions: pure functions of embeddings.

Shapes: N pictures or captions, E embedding width, k results.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""(E,)."""
Matrix = NDArray[np.float32]
"""(N, E), unit rows."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One result."""

    row: int
    """Of the matrix."""
    score: float
    """Cosine similarity."""


def nearest(query: Vector, matrix: Matrix, k: int, left_out: int | None = None) -> list[Hit]:
    """The k rows with the highest cosine similarity to a query, the best first; of equal scores the earlier row.

    Args:
        query: (E,), of any length but zero.
        matrix: (N, E), unit rows.
        k: Results; fewer if there are fewer rows.
        left_out: A row that is no result; `None`: all may be.

    Raises:
        ValueError: The query is zero, or holds NaN or infinity.
    """
    length = float(np.linalg.norm(query))
    if not (np.isfinite(length) and length > 0):
        raise ValueError("the query must be finite and not zero")
    scores = matrix @ (query / length).astype(np.float32)
    if left_out is not None:
        scores[left_out] = -np.inf
    k = min(k, len(scores) - (left_out is not None))
    if k <= 0:
        return []
    # All rows that tie with the k-th best, so that the stable sort decides between them.
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= threshold)
    order = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return [Hit(int(row), float(scores[row])) for row in order]


def nearest_texts(query: Vector, matrix: Matrix, texts: list[str], k: int) -> list[tuple[str, float]]:
    """The k different texts with the highest cosine similarity, the best first, and the similarity.

    Args:
        query: (E,).
        matrix: (N, E), unit rows.
        texts: N texts; of equal ones the best counts.
        k: Results.

    Raises:
        ValueError: As in `nearest`.
    """
    found: dict[str, float] = {}
    for hit in nearest(query, matrix, len(texts)):
        found.setdefault(texts[hit.row], hit.score)
        if len(found) == k:
            break
    return list(found.items())


def shared_rows(first: list[Hit], second: list[Hit]) -> set[int]:
    """The rows that both rankings hold."""
    return {hit.row for hit in first} & {hit.row for hit in second}
