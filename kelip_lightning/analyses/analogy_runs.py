"""Analogies over several runs: which relations work, with intervals over seeds and clusters of queries.

Each run chooses its λ on the half for λ, as in `analogy`; the metrics are of the other half, the same queries in every
run. A relation *works* in a pairing of languages if the interval of its gain excludes zero on both baselines, the image
alone and the target text alone: then it lies above the better of the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_modules.benchmarks.analogy_queries import AnalogyQuery
from kelip_lightning.analyses.analogy import (
    BASELINES,
    MACRO,
    PAIRINGS,
    TOPS,
    PairingRanks,
    by_relation,
    pairing_ranks,
    split_halves,
)
from kelip_lightning.analyses.output import Finding, Findings, Item
from kelip_lightning.statistics.bootstrap import Bootstrap, Interval
from kelip_lightning.statistics.several_runs import interval_over_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEmbeddings:
    """Images and texts of one set under the model of one run."""

    run: str
    images: Tensor
    """(M, E) unit rows."""
    texts: dict[str, Tensor]
    """Language -> (T, E) unit rows."""


def findings_over_runs(
    name: str, queries: Sequence[AnalogyQuery], runs: Sequence[RunEmbeddings], bootstrap: Bootstrap
) -> Findings:
    """Mean and interval over the runs of every method, by relation and over all; a sentence for each relation.

    Args:
        name: Of the gallery.
        queries: Q queries, at least one in each half of every relation.
        runs: S runs, at least one.
        bootstrap: Resampling of the queries, by cluster within each relation.

    Raises:
        DataError: A relation has no query in one of the halves.
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    _, test = split_halves(name, queries)
    ranked = {one.run: pairing_ranks(name, queries, one.images, one.texts, bootstrap) for one in runs}
    found = Findings()
    for pairing in PAIRINGS:
        chosen = {run: one[pairing] for run, one in ranked.items()}
        found.summary += _summary(name, pairing, test, list(chosen.values()), bootstrap)
        found.items += _items(name, pairing, test, chosen)
    found.statements = relation_statements(name, found.summary, list(by_relation(queries)), len(runs))
    return found


def _summary(
    name: str, pairing: str, test: Sequence[AnalogyQuery], runs: Sequence[PairingRanks], bootstrap: Bootstrap
) -> list[Finding]:
    relations = by_relation(test)
    clusters = {relation: [test[row].cluster for row in rows] for relation, rows in relations.items()}
    parts = {MACRO: list(relations)} | {relation: [relation] for relation in relations}
    scales = np.array([one.scale for one in runs])
    found = [
        Finding(
            subject=f"{name}: {MACRO}",
            measure=f"{pairing} λ",
            interval=Interval(value=float(scales.mean()), low=float(scales.min()), high=float(scales.max())),
            count=len(runs),
            headline=False,
        )
    ]
    for top in TOPS:
        hits = {
            method: np.stack([one.ranks[method] < top for one in runs]).astype(np.float64) for method in runs[0].ranks
        }
        hits |= {f"analogy − {base}": hits["analogy"] - hits[base] for base in BASELINES}
        for method, values in hits.items():
            for part, members in parts.items():
                rows, names = [relations[one] for one in members], [clusters[one] for one in members]
                interval = _interval(values, rows, names, bootstrap)
                found.append(
                    Finding(
                        subject=f"{name}: {part}",
                        measure=f"{pairing} top-{top}, {method}",
                        interval=interval if "−" in method else _within_bounds(interval),
                        count=sum(map(len, rows)),
                        headline=top == 1 and (part == MACRO or method == "analogy"),
                    )
                )
    return found


def _interval(
    values: NDArray[np.float64],
    rows: Sequence[NDArray[np.int64]],
    clusters: Sequence[Sequence[str]],
    bootstrap: Bootstrap,
) -> Interval:
    """Of the unweighted mean over strata of (S, Q) values; the same resamples of clusters in every run."""
    points = [float(np.mean([one[members].mean() for members in rows])) for one in values]
    resampled = [bootstrap.resampled_means([one[members] for members in rows], clusters) for one in values]
    num_clusters = sum(len(set(names)) for names in clusters)
    return interval_over_runs(points, np.stack(resampled), num_clusters)


def _within_bounds(interval: Interval) -> Interval:
    """The interval of a share, which Student's t may extend beyond [0, 1]."""
    return Interval(value=interval.value, low=max(0.0, interval.low), high=min(1.0, interval.high))


def _items(name: str, pairing: str, test: Sequence[AnalogyQuery], runs: Mapping[str, PairingRanks]) -> list[Item]:
    return [
        {
            "run": run,
            "gallery": name,
            "pairing": pairing,
            "query": query.name,
            "relation": query.relation,
            "cluster": query.cluster,
            "lambda": one.scale,
            **{f"rank, {method}": int(ranks[place]) for method, ranks in one.ranks.items()},
        }
        for run, one in runs.items()
        for place, query in enumerate(test)
    ]


def relation_statements(name: str, summary: Sequence[Finding], relations: Sequence[str], num_runs: int) -> list[str]:
    """For each relation and for all together, in which pairings it works, and in which it does not."""
    return [_statement(name, relation, summary, num_runs) for relation in [*relations, MACRO]]


def _statement(name: str, relation: str, summary: Sequence[Finding], num_runs: int) -> str:
    metrics = {one.measure: one.interval for one in summary if one.subject == f"{name}: {relation}"}
    verdicts: dict[str, list[str]] = {"works": [], "is not shown to work": [], "does worse than a baseline": []}
    for pairing in PAIRINGS:
        gains = [metrics[f"{pairing} top-1, analogy − {base}"] for base in BASELINES]
        score = metrics[f"{pairing} top-1, analogy"]
        base = max(metrics[f"{pairing} top-1, {one}"].value for one in BASELINES)
        text = f"{pairing} ({score.value:.1%}, {score.low:.1%} to {score.high:.1%}, better baseline {base:.1%})"
        if all(one.low > 0 for one in gains):
            verdicts["works"].append(text)
        elif any(one.high < 0 for one in gains):
            verdicts["does worse than a baseline"].append(text)
        else:
            verdicts["is not shown to work"].append(text)
    said = "; ".join(f"{verdict} in {', '.join(texts)}" for verdict, texts in verdicts.items() if texts)
    of = f" over {num_runs} runs" if num_runs > 1 else ""
    return f"{name}, {relation}{of}, top-1: {said}."
