"""Embedding arithmetic: image retrieval with image + λ (target text − source text).

Shapes: Q queries, M images of the gallery, T texts, E embedding width.

A query has an image, a source text that describes it, a target text, and the correct images. The query vector is
normalise(image) + λ (normalise(target text) − normalise(source text)); the gallery is ranked by cosine, without the
query's own image. λ is chosen on one half of the queries, separately for each pairing of languages, and the metrics
are of the other half. The halves follow from a hash of the query's name, so they are the same for every model.

A pairing has one or two languages: `ko-en` takes the target text in Korean and the source text in English.
Baselines: the image alone (λ = 0) and the target text alone.

Reference: Couairon et al. 2022, Embedding Arithmetic of Multimodal Queries for Image Retrieval, with its set SIMAT
(arXiv:2112.03162).
Deviation: SIMAT decides with a cross-modal model whether the retrieved image is correct; here the labels decide.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.benchmarks.analogy_queries import AnalogyQuery
from data_modules.errors import DataError
from kelip_lightning.analyses.output import Finding, Findings, Item
from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.evaluation.ranks import best_correct_ranks
from kelip_lightning.statistics.bootstrap import Bootstrap, Interval

LAMBDAS = tuple(step / 10 for step in range(21))
"""Candidates of λ: 0.0, 0.1, ... 2.0."""

PAIRINGS = {"ko": ("ko", "ko"), "en": ("en", "en"), "ko-en": ("ko", "en"), "en-ko": ("en", "ko")}
"""Name -> language of the target text, language of the source text."""

TOPS = (1, 5)

BASELINES = ("image only", "text only")

MACRO = "mean of relations"
DEV_HALF = "half for λ"


def in_test_half(name: str) -> bool:
    """Whether a query is in the test half: the last bit of the first byte of the SHA-256 of its name."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1


def analogy_findings(
    name: str, queries: Sequence[AnalogyQuery], images: Tensor, texts: dict[str, Tensor], bootstrap: Bootstrap
) -> Findings:
    """Choose λ on one half of the queries, and compare with both baselines on the other.

    Args:
        name: Of the gallery.
        queries: Q queries, at least one in each half of every relation.
        images: (M, E) unit rows.
        texts: Language -> (T, E) unit rows; the queries' `source` and `target` are their indices.
        bootstrap: Resampling of the queries, by cluster within each relation.

    Raises:
        DataError: A relation has no query in one of the halves.
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    dev, test = split_halves(name, queries)
    found = Findings()
    for pairing, chosen in pairing_ranks(name, queries, images, texts, bootstrap).items():
        found.extend(_report(name, pairing, test, chosen.ranks, chosen.scale, bootstrap))
        found.summary += [
            Finding(
                subject=f"{name}: {DEV_HALF}",
                measure=f"{pairing} top-1, λ = {scale:.1f}",
                interval=interval,
                count=len(dev),
                headline=False,
            )
            for scale, interval in chosen.curve.items()
        ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingRanks:
    """One pairing of languages: its λ, and the ranks of the test half under every method."""

    scale: float
    """λ, the smallest with the best top-1 on the other half."""
    curve: dict[float, Interval]
    """λ -> top-1 on the other half, averaged over relations."""
    ranks: dict[str, NDArray[np.int64]]
    """`analogy` and each of `BASELINES` -> (Q',) ranks of the test half."""


def pairing_ranks(
    name: str, queries: Sequence[AnalogyQuery], images: Tensor, texts: dict[str, Tensor], bootstrap: Bootstrap
) -> dict[str, PairingRanks]:
    """Pairing of languages -> its λ and ranks; arguments and errors as in `analogy_findings`."""
    require_finite(images, "image")
    for language, rows in texts.items():
        require_finite(rows, f"{language} text")
    dev, test = split_halves(name, queries)
    image_only = query_ranks(test, images[[one.image for one in test]], images)
    found = {}
    for pairing, languages in PAIRINGS.items():
        curve = {
            scale: _top1(dev, query_ranks(dev, query_vectors(dev, images, texts, languages, scale), images), bootstrap)
            for scale in LAMBDAS
        }
        best = max(LAMBDAS, key=lambda scale: (curve[scale].value, -scale))
        ranks = {
            "analogy": query_ranks(test, query_vectors(test, images, texts, languages, best), images),
            "image only": image_only,
            "text only": query_ranks(test, texts[languages[0]][[one.target for one in test]], images),
        }
        found[pairing] = PairingRanks(scale=best, curve=curve, ranks=ranks)
    return found


def split_halves(name: str, queries: Sequence[AnalogyQuery]) -> tuple[list[AnalogyQuery], list[AnalogyQuery]]:
    """The half on which λ is chosen, and the test half.

    Raises:
        DataError: A relation has no query in one of the halves.
    """
    test = [one for one in queries if in_test_half(one.name)]
    dev = [one for one in queries if not in_test_half(one.name)]
    both = {one.relation for one in dev} & {one.relation for one in test}
    if lacking := sorted({one.relation for one in queries} - both):
        raise DataError(
            f"sets.{name}.relations.{lacking[0]} has no query in one of the halves; give it more queries or remove it"
        )
    return dev, test


def query_ranks(
    queries: Sequence[AnalogyQuery], vectors: Tensor, images: Tensor, chunk: int = 1024
) -> NDArray[np.int64]:
    """(Q,) rank of the best correct image of each query, 0 is best, without the query's own image.

    Args:
        queries: Q queries.
        vectors: (Q, E) from `query_vectors`, or the target texts alone.
        images: (M, E) unit rows.
        chunk: Queries scored at a time.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    _require_finite(vectors, images)
    ranks = []
    for start in range(0, len(queries), chunk):
        members = queries[start : start + chunk]
        scores = _scores(members, vectors[start : start + chunk], images)
        correct = torch.zeros_like(scores, dtype=torch.bool)
        rows = [row for row, one in enumerate(members) for _ in one.right]
        correct[rows, [index for one in members for index in one.right]] = True
        ranks.append(best_correct_ranks(scores, correct))
    return torch.cat(ranks).numpy()


def nearest_images(queries: Sequence[AnalogyQuery], vectors: Tensor, images: Tensor, top: int) -> Tensor:
    """(Q, top) gallery indices of the nearest images, int64; arguments and error as in `query_ranks`."""
    _require_finite(vectors, images)
    return _scores(queries, vectors, images).topk(top, dim=1).indices


def query_vectors(
    queries: Sequence[AnalogyQuery], images: Tensor, texts: dict[str, Tensor], languages: tuple[str, str], scale: float
) -> Tensor:
    """(Q, E) image + scale * (target text − source text).

    Args:
        queries: Q queries.
        images: (M, E) unit rows.
        texts: Language -> (T, E) unit rows.
        languages: Of the target text and of the source text.
        scale: λ.
    """
    target = texts[languages[0]][[one.target for one in queries]]
    source = texts[languages[1]][[one.source for one in queries]]
    return analogy_vectors(images[[one.image for one in queries]], source, target, scale)


def analogy_vectors(images: Tensor, source: Tensor, target: Tensor, scale: float) -> Tensor:
    """(Q, E) image + scale * (target text − source text), of unit rows (Q, E) each."""
    return images + scale * (target - source)


def _scores(queries: Sequence[AnalogyQuery], vectors: Tensor, images: Tensor) -> Tensor:
    """(Q, M); query vectors need no normalisation, which would not change the order of a row."""
    scores = vectors @ images.T
    rows = [row for row, one in enumerate(queries) for _ in one.left_out]
    scores[rows, [index for one in queries for index in one.left_out]] = -torch.inf
    return scores


def _require_finite(vectors: Tensor, images: Tensor) -> None:
    require_finite(vectors, "query")
    require_finite(images, "image")


def by_relation(queries: Sequence[AnalogyQuery]) -> dict[str, NDArray[np.int64]]:
    """Relation -> indices of its queries."""
    relations = dict.fromkeys(one.relation for one in queries)
    return {
        relation: np.array([place for place, one in enumerate(queries) if one.relation == relation])
        for relation in relations
    }


def _top1(queries: Sequence[AnalogyQuery], ranks: NDArray[np.int64], bootstrap: Bootstrap) -> Interval:
    """Top-1 averaged over relations."""
    relations = by_relation(queries)
    clusters = [[queries[row].cluster for row in rows] for rows in relations.values()]
    return bootstrap.mean_of_strata([ranks[rows] == 0 for rows in relations.values()], clusters)


def _report(
    name: str,
    pairing: str,
    queries: Sequence[AnalogyQuery],
    ranks: dict[str, NDArray[np.int64]],
    scale: float,
    bootstrap: Bootstrap,
) -> Findings:
    """Metrics of one pairing of languages: each method, and the paired difference from each baseline."""
    relations = by_relation(queries)
    clusters = {relation: [queries[row].cluster for row in rows] for relation, rows in relations.items()}
    report = Findings(items=_items(name, pairing, queries, ranks, scale))
    for top in TOPS:
        hits = {method: (values < top).astype(float) for method, values in ranks.items()}
        hits |= {f"analogy − {base}": hits["analogy"] - hits[base] for base in BASELINES}
        for method, values in hits.items():
            measure = f"{pairing} top-{top}, {method}"
            whole = bootstrap.mean_of_strata([values[rows] for rows in relations.values()], list(clusters.values()))
            parts = [(MACRO, whole, len(values), top == 1)]
            parts += [
                (
                    relation,
                    bootstrap.mean(values[rows], clusters[relation]),
                    len(rows),
                    top == 1 and method == "analogy",
                )
                for relation, rows in relations.items()
            ]
            report.summary += [
                Finding(subject=f"{name}: {part}", measure=measure, interval=interval, count=count, headline=headline)
                for part, interval, count, headline in parts
            ]
    report.statements = [_statement(name, pairing, scale, report.summary)]
    return report


def _items(
    name: str, pairing: str, queries: Sequence[AnalogyQuery], ranks: dict[str, NDArray[np.int64]], scale: float
) -> list[Item]:
    return [
        {
            "gallery": name,
            "pairing": pairing,
            "query": one.name,
            "relation": one.relation,
            "image": one.image,
            "right": one.right[0],
            "lambda": scale,
            **{f"rank, {method}": int(values[place]) for method, values in ranks.items()},
        }
        for place, one in enumerate(queries)
    ]


def _statement(name: str, pairing: str, scale: float, summary: Sequence[Finding]) -> str:
    """Whether the top-1 accuracy over all relations beats the baselines, by the paired intervals."""
    metrics = {one.measure: one.interval for one in summary if one.subject == f"{name}: {MACRO}"}
    score = metrics[f"{pairing} top-1, analogy"]
    bases = {base: metrics[f"{pairing} top-1, analogy − {base}"] for base in BASELINES}
    beaten = [base for base, interval in bases.items() if interval.low > 0]
    verdict = {
        2: "beats both baselines",
        1: f"beats {' '.join(beaten)} but not {' '.join(base for base in bases if base not in beaten)}",
        0: "beats neither baseline",
    }[len(beaten)]
    gains = ", ".join(f"{one.value:+.3f} on {base}" for base, one in bases.items())
    return f"{name}, {pairing}: top-1 {score.value:.3f} at λ = {scale:.1f} {verdict} ({gains})."
