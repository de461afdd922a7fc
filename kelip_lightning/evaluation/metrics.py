"""Retrieval ranks, zero-shot classification and similarity of translations.

Shapes: N queries (images, captions), M gallery items, C classes, E embedding width.

Ties, everywhere: a wrong item with the same score as the correct one is ranked before it. A collapsed model, for
which all scores are equal, therefore has recall 0.

Zero-shot classification follows Radford et al. 2021 (arXiv:2103.00020), sec. 3.1.4 (prompt ensembles in embedding
space); it agrees with open_clip's `build_zero_shot_classifier` and with CLIP_benchmark.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.text.particles import check_template, fill_template
from kelip_lightning.evaluation.embed import TextEncode, embed_texts, require_finite
from kelip_lightning.evaluation.metric_names import RECALL_KS, TOP_KS


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


def group_ranks(
    queries: Tensor, gallery: Tensor, query_groups: Tensor, gallery_groups: Tensor, chunk: int = 1024
) -> Tensor:
    """Rank of the best correct item of every query; all items of the query's group are correct.

    Args:
        queries: (N, E), normalised.
        gallery: (M, E), normalised.
        query_groups: (N,) int64; every group has at least one gallery item.
        gallery_groups: (M,) int64.
        chunk: Queries scored at a time.

    Returns:
        (N,) int64, 0 is best: the number of wrong items that score at least as high as the best correct one.

    Raises:
        ValueError: Shapes do not fit or a query has no correct item.
        NonFiniteEmbeddingsError: Queries or gallery hold NaN or infinity.
    """
    _check(queries, gallery, gallery_groups, len(gallery))
    if not bool(torch.isin(query_groups, gallery_groups).all()):
        raise ValueError("every query must have at least one correct item in the gallery")
    return torch.cat(
        [
            best_correct_ranks(scores, query_groups[rows, None] == gallery_groups[None, :])
            for rows, scores in _score_chunks(queries, gallery, chunk)
        ]
    )


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


def class_embeddings(
    encode_texts: TextEncode, class_names: Sequence[Sequence[str]], templates: Sequence[str]
) -> Tensor:
    """One embedding per class: every prompt normalised, mean over names and templates, normalised again.

    Args:
        encode_texts: B texts -> features (B, E).
        class_names: Per class, one or more names.
        templates: Prompts with `{}` once, which the name replaces, and Korean particles (`particles.fill_template`).

    Returns:
        (C, E) float32, unit length.

    Raises:
        ValueError: A class has no name, there is no template, or one is unusable (`check_template`).
    """
    if not templates:
        raise ValueError("zero-shot classification needs at least one template")
    for template in templates:
        check_template(template, "zero-shot classification")
    if not class_names or any(not names for names in class_names):
        raise ValueError("every class must have at least one name")
    counts = torch.tensor([len(names) * len(templates) for names in class_names])
    prompts = [fill_template(template, name) for names in class_names for name in names for template in templates]
    features = embed_texts(encode_texts, prompts)
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    sums = torch.zeros(len(counts), features.shape[1]).index_add_(0, owner, features)
    return F.normalize(sums / counts[:, None], dim=-1)


def class_ranks(image_features: Tensor, class_features: Tensor, labels: Tensor) -> Tensor:
    """Rank of every image's class, (N,) int64, 0 is best.

    Args:
        image_features: (N, E), normalised.
        class_features: (C, E), normalised.
        labels: (N,) int64 in [0, C).

    Raises:
        NonFiniteEmbeddingsError: Images or classes hold NaN or infinity.
    """
    require_finite(image_features, "image")
    require_finite(class_features, "class")
    return retrieval_ranks(image_features, class_features, labels)


def top_k_accuracy(ranks: Tensor, num_classes: int, ks: Sequence[int] = TOP_KS) -> dict[int, float]:
    """Top-k accuracy in [0, 1] from `class_ranks`; a k above the number of classes is left out: it would be 1."""
    return recall_at(ranks, [k for k in ks if k <= num_classes])


def mean_per_class_recall(ranks: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy from `class_ranks`, averaged over classes, in [0, 1]; classes without an image are ignored."""
    hits = (ranks == 0).double()
    counts = torch.bincount(labels)
    recalls = torch.zeros(len(counts), dtype=torch.double).index_add_(0, labels, hits) / counts
    return recalls[counts > 0].mean().item()


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


def _score_chunks(queries: Tensor, gallery: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, scores (chunk, M)) in float32; lower precision would add ties."""
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
