"""Image + λ (target text − source text): does the nearest image show the change that the texts name?

Shapes: Q queries, M images of the gallery, E embedding width.

A query is an image, a text that fits it, a text that fits what is sought, and the images that are right. What is
asked with is normalise(image) + λ (normalise(target text) − normalise(source text)); the gallery is ranked by
cosine, the query's own image left out. λ is chosen on one half of the queries, separately for each pairing of
languages, and the metrics come from the other half. The halves follow from a hash of the query's name, so that they
are the same for every model.

Texts may be of one language or of two: `ko-en` takes the target text in Korean and the source text in English.
Two baselines: the image alone (λ = 0) and the target text alone.

Reference: Couairon et al. 2022, Embedding Arithmetic of Multimodal Queries for Image Retrieval, with its set SIMAT
(arXiv:2112.03162).
Deviation: SIMAT asks a cross-modal model whether the image found is right; here the right images are known.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.benchmarks.analogy_queries import AnalogyQuery
from data_modules.errors import DataError
from kelip_lightning.analyses.records import Finding, Findings, Item
from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.statistics.bootstrap import Bootstrap, Interval

LAMBDAS = tuple(step / 10 for step in range(21))
"""The λ that are tried: 0.0, 0.1, ... 2.0."""

PAIRINGS = {"ko": ("ko", "ko"), "en": ("en", "en"), "ko-en": ("ko", "en"), "en-ko": ("en", "ko")}
"""Name -> language of the target text, language of the source text."""

TOPS = (1, 5)

MACRO = "mean of relations"
DEV_HALF = "half for λ"


def in_test_half(name: str) -> bool:
    """Whether a query belongs to the half that is reported: the last bit of the first byte of its SHA-256."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1


def analogy_findings(
    name: str,
    queries: Sequence[AnalogyQuery],
    images: Tensor,
    texts: dict[str, Tensor],
    bootstrap: Bootstrap,
) -> Findings:
    """Choose λ on one half, report the other, against both baselines.

    Args:
        name: Of the gallery.
        queries: Q queries, at least one in each half of every relation.
        images: (M, E) unit rows.
        texts: Language -> (T, E) unit rows, to which the queries' `source` and `target` point.
        bootstrap: Resampling of the reported queries, by cluster within each relation.

    Raises:
        DataError: A relation has no query in one of the halves.
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    require_finite(images, "image")
    for language, rows in texts.items():
        require_finite(rows, f"{language} text")
    dev, test = split_halves(name, queries)
    image_only = query_ranks(test, images[[one.image for one in test]], images)
    found = Findings()
    for pairing, languages in PAIRINGS.items():
        curve = {
            scale: _top1(dev, query_ranks(dev, asked_with(dev, images, texts, languages, scale), images), bootstrap)
            for scale in LAMBDAS
        }
        best = max(LAMBDAS, key=lambda scale: (curve[scale].value, -scale))
        ranks = {
            "analogy": query_ranks(test, asked_with(test, images, texts, languages, best), images),
            "image only": image_only,
            "text only": query_ranks(test, texts[languages[0]][[one.target for one in test]], images),
        }
        found.extend(_report(name, pairing, test, ranks, best, bootstrap))
        found.summary += [
            Finding(
                subject=f"{name}: {DEV_HALF}",
                measure=f"{pairing} top-1, λ = {scale:.1f}",
                interval=interval,
                count=len(dev),
                headline=False,
            )
            for scale, interval in curve.items()
        ]
    return found


def split_halves(name: str, queries: Sequence[AnalogyQuery]) -> tuple[list[AnalogyQuery], list[AnalogyQuery]]:
    """The half on which λ is chosen and the half that is reported.

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


def query_ranks(queries: Sequence[AnalogyQuery], asked: Tensor, images: Tensor, chunk: int = 1024) -> NDArray[np.int64]:
    """(Q,) rank of the best right image of each query, 0 is best, its own image left out.

    Wrong images that score at least as much as the best right one count as before it.

    Args:
        queries: Q queries.
        asked: (Q, E) what the images are compared with: from `asked_with`, or the target texts alone.
        images: (M, E) unit rows.
        chunk: Queries scored at a time.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    _require_finite(asked, images)
    ranks = []
    for start in range(0, len(queries), chunk):
        members = queries[start : start + chunk]
        scores = _scores(members, asked[start : start + chunk], images)
        right = torch.zeros_like(scores, dtype=torch.bool)
        rows = [row for row, one in enumerate(members) for _ in one.right]
        right[rows, [index for one in members for index in one.right]] = True
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((scores >= best) & ~right).sum(dim=1))
    return torch.cat(ranks).numpy()


def nearest_images(queries: Sequence[AnalogyQuery], asked: Tensor, images: Tensor, top: int) -> Tensor:
    """(Q, top) gallery rows of the nearest images, int64; arguments and error as in `query_ranks`."""
    _require_finite(asked, images)
    return _scores(queries, asked, images).topk(top, dim=1).indices


def asked_with(
    queries: Sequence[AnalogyQuery],
    images: Tensor,
    texts: dict[str, Tensor],
    languages: tuple[str, str],
    scale: float,
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
    return images[[one.image for one in queries]] + scale * (target - source)


def _scores(queries: Sequence[AnalogyQuery], asked: Tensor, images: Tensor) -> Tensor:
    """(Q, M); a query's length does not change the order of its row, so it is left as it is."""
    scores = asked @ images.T
    rows = [row for row, one in enumerate(queries) for _ in one.left_out]
    scores[rows, [index for one in queries for index in one.left_out]] = -torch.inf
    return scores


def _require_finite(asked: Tensor, images: Tensor) -> None:
    require_finite(asked, "query")
    require_finite(images, "image")


def _by_relation(queries: Sequence[AnalogyQuery]) -> dict[str, NDArray[np.int64]]:
    relations = dict.fromkeys(one.relation for one in queries)
    return {
        relation: np.array([place for place, one in enumerate(queries) if one.relation == relation])
        for relation in relations
    }


def _top1(queries: Sequence[AnalogyQuery], ranks: NDArray[np.int64], bootstrap: Bootstrap) -> Interval:
    """Top-1 averaged over relations."""
    relations = _by_relation(queries)
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
    """Metrics of one pairing of languages: each method, and the analogy less each baseline on the same queries."""
    relations = _by_relation(queries)
    clusters = {relation: [queries[row].cluster for row in rows] for relation, rows in relations.items()}
    found = Findings(items=_items(name, pairing, queries, ranks, scale))
    for top in TOPS:
        hits = {method: (values < top).astype(float) for method, values in ranks.items()}
        hits |= {f"analogy − {base}": hits["analogy"] - hits[base] for base in ("image only", "text only")}
        for method, values in hits.items():
            measure = f"{pairing} top-{top}, {method}"
            whole = bootstrap.mean_of_strata([values[rows] for rows in relations.values()], list(clusters.values()))
            found.summary.append(
                Finding(
                    subject=f"{name}: {MACRO}",
                    measure=measure,
                    interval=whole,
                    count=len(values),
                    headline=top == 1,
                )
            )
            found.summary += [
                Finding(
                    subject=f"{name}: {relation}",
                    measure=measure,
                    interval=bootstrap.mean(values[rows], clusters[relation]),
                    count=len(rows),
                    headline=top == 1 and method == "analogy",
                )
                for relation, rows in relations.items()
            ]
    found.statements = [_statement(name, pairing, scale, found.summary)]
    return found


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
    """Whether the top-1 score over all relations beats both baselines, by the paired intervals."""
    metrics = {one.measure: one.interval for one in summary if one.subject == f"{name}: {MACRO}"}
    score = metrics[f"{pairing} top-1, analogy"]
    bases = {base: metrics[f"{pairing} top-1, analogy − {base}"] for base in ("image only", "text only")}
    beaten = [base for base, interval in bases.items() if interval.low > 0]
    verdict = {
        2: "beats both baselines",
        1: f"beats {' '.join(beaten)} but not {' '.join(base for base in bases if base not in beaten)}",
        0: "beats neither baseline",
    }[len(beaten)]
    gains = ", ".join(f"{one.value:+.3f} on {base}" for base, one in bases.items())
    return f"{name}, {pairing}: top-1 {score.value:.3f} at λ = {scale:.1f} {verdict} ({gains})."
