"""Plots of the findings."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from data_modules.benchmarks.analogy_queries import AnalogyQuery, AnalogySet
from data_modules.benchmarks.word_pairs import WordPair
from kelip_lightning.analyses.analogy import DEV_HALF, MACRO, PAIRINGS, in_test_half, nearest_images, query_vectors
from kelip_lightning.analyses.cross_lingual import CONTROL, HEADLINE
from kelip_lightning.analyses.culture import PairImages
from kelip_lightning.analyses.output import Finding, Findings, Item, number
from kelip_lightning.drawing.charts import ChartRow, interval_chart
from kelip_lightning.drawing.panels import ImageRow, draw_image_rows


def cross_lingual_plots(findings: Findings, names: Sequence[str]) -> dict[str, np.ndarray]:
    """One chart per caption set: the model and its control, by measure."""
    plots = {}
    for name in names:
        rows = [
            row_of(one, f"{measure}, {'control' if one.subject.endswith(CONTROL) else 'model'}")
            for measure in HEADLINE
            for one in findings.summary
            if one.measure == measure and one.subject in (name, f"{name}, {CONTROL}")
        ]
        plots[f"cross_lingual_{name}"] = interval_chart(rows, f"{name}: 한국어 (Korean) and English captions")
    return plots


def culture_plots(
    findings: Findings, pairs: Sequence[WordPair], first: PairImages, images: Tensor, num_shown: int
) -> dict[str, np.ndarray]:
    """A chart of the overlap by topic, and the images of the pairs that differ most; known words first.

    Args:
        findings: Of `compare_words`; the first items are those of the pairs, in their order.
        pairs: P word pairs.
        first: Gallery indices of each pair's top-k images.
        images: uint8 (M, 3, S, S), the gallery.
        num_shown: Pairs to show.
    """
    overlap = findings.summary[0].measure
    rows = [row_of(one, one.subject) for one in findings.summary if one.measure == overlap]
    title = "Share of images that both words call up (overlap of the first ones)"
    plots = {"overlap": interval_chart(rows, title)}
    order = sorted(range(len(pairs)), key=lambda index: _order(findings.items[index]))
    shown = [row for index in order[:num_shown] for row in _pair_rows(findings.items[index], index, first, images)]
    if shown:
        plots["word_pairs"] = draw_image_rows(shown, "Mean image and first images: 한국어 above, English below")
    return plots


def _order(item: Item) -> tuple[bool, bool, float]:
    """Sort key: control pairs last, known words before unknown ones, small p-values first."""
    return bool(item["control"]), not item["known"], number(item, "p")


def _pair_rows(item: Item, place: int, first: PairImages, images: Tensor) -> list[ImageRow]:
    corrected = "" if item["p_holm"] is None else f", corrected {item['p_holm']:.3f}"
    details = [f"p = {item['p']:.4f}{corrected}", str(item["verdict"])]
    rows = []
    for language, chosen in (("ko", first.ko[place]), ("en", first.en[place])):
        pictures = images[chosen].permute(0, 2, 3, 1).numpy()
        rows.append(
            ImageRow(
                words=[str(item[language]), *(details if language == "ko" else [])],
                lead=pictures.mean(axis=0).round().astype(np.uint8),
                images=list(pictures),
                rule_above=language == "ko",
            )
        )
    return rows


TOP = 5
"""Images per example."""


def analogy_plots(
    findings: Findings, data: AnalogySet, images: Tensor, texts: dict[str, Tensor], num_shown: int
) -> dict[str, np.ndarray]:
    """Accuracy against baselines, by relation and by λ, and examples of the test half.

    Args:
        findings: Of this set alone.
        data: Gallery and queries.
        images: (M, E) unit rows.
        texts: Language -> (T, E) unit rows.
        num_shown: Examples per relation.
    """
    name = data.name
    macro = [one for one in findings.summary if one.subject == f"{name}: {MACRO}" and "top-1" in one.measure]
    relations = [
        one
        for one in findings.summary
        if one.measure in {f"{pairing} top-1, analogy" for pairing in PAIRINGS} and MACRO not in one.subject
    ]
    dev = [one for one in findings.summary if one.subject.endswith(DEV_HALF)]
    plots = {
        f"analogy_{name}": interval_chart(
            [row_of(one, one.measure) for one in macro], f"{name}: top-1, mean of relations"
        ),
        f"analogy_{name}_relations": interval_chart(
            [row_of(one, f"{one.subject.removeprefix(f'{name}: ')}: {one.measure}") for one in relations],
            f"{name}: top-1 by relation",
        ),
        f"analogy_{name}_lambda": interval_chart(
            [row_of(one, one.measure) for one in dev], f"{name}: how λ was chosen"
        ),
    }
    rows = _examples(findings, data, images, texts, num_shown)
    if rows:
        title = f"{name}: query image, then the nearest images (green: correct)"
        plots[f"analogy_{name}_examples"] = draw_image_rows(rows, title)
    return plots


def _examples(
    findings: Findings, data: AnalogySet, images: Tensor, texts: dict[str, Tensor], num_shown: int
) -> list[ImageRow]:
    """The first queries of each relation in the test half, in Korean and in English."""
    scales = {str(item["pairing"]): number(item, "lambda") for item in findings.items}
    test = [one for one in data.queries if in_test_half(one.name)]
    shown = [
        one
        for relation in dict.fromkeys(query.relation for query in test)
        for one in [query for query in test if query.relation == relation][:num_shown]
    ]
    rows: list[ImageRow] = []
    top = min(TOP, len(images) - 1)
    for language in ("ko", "en") if shown else ():
        vectors = query_vectors(shown, images, texts, PAIRINGS[language], scales[language])
        found = nearest_images(shown, vectors, images, top).tolist()
        rows += [
            _example(data, query, indices, language, scales[language])
            for query, indices in zip(shown, found, strict=True)
        ]
    return rows


def _example(data: AnalogySet, query: AnalogyQuery, found: list[int], language: str, scale: float) -> ImageRow:
    words = data.texts[language]
    pictures = data.gallery.images
    return ImageRow(
        words=[f"{words[query.source][0]} > {words[query.target][0]}", f"{query.relation}, λ = {scale:.1f}"],
        lead=pictures[query.image].permute(1, 2, 0).numpy(),
        images=[pictures[index].permute(1, 2, 0).numpy() for index in found],
        right=frozenset(place for place, index in enumerate(found) if index in query.right),
    )


def row_of(finding: Finding, label: str) -> ChartRow:
    """A finding as a row of a chart."""
    interval = finding.interval
    return ChartRow(label=label, value=interval.value, low=interval.low, high=interval.high, chance=finding.chance)


def runs_plots(name: str, prefix: str, findings: Findings) -> dict[str, np.ndarray]:
    """The main metrics over several runs with their intervals: a row each, `prefix` left out of their subjects."""
    rows = [
        row_of(one, f"{one.subject.removeprefix(prefix)}, {one.measure}") for one in findings.summary if one.headline
    ]
    return {name: interval_chart(rows, name.replace("_", " "))}
