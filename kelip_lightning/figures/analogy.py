"""Figures of the analogy analysis."""

import numpy as np
from torch import Tensor

from data_modules.analogy_queries import AnalogyQuery, AnalogySet
from kelip_lightning.analyses.analogy import DEV_HALF, MACRO, PAIRINGS, asked_with, in_test_half, nearest_images
from kelip_lightning.analyses.records import Findings, number
from kelip_lightning.figures.image_rows import ImageRow, draw_image_rows
from kelip_lightning.figures.interval_chart import draw_interval_chart, row_of

TOP = 5


def analogy_figures(
    findings: Findings, data: AnalogySet, images: Tensor, texts: dict[str, Tensor], num_shown: int
) -> dict[str, np.ndarray]:
    """Scores against baselines, scores by relation, the choice of λ, and examples of the reported half.

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
    figures = {
        f"analogy_{name}": draw_interval_chart(
            [row_of(one, one.measure) for one in macro], f"{name}: top-1, mean of relations"
        ),
        f"analogy_{name}_relations": draw_interval_chart(
            [row_of(one, f"{one.subject.removeprefix(f'{name}: ')}: {one.measure}") for one in relations],
            f"{name}: top-1 by relation",
        ),
        f"analogy_{name}_lambda": draw_interval_chart(
            [row_of(one, one.measure) for one in dev], f"{name}: how λ was chosen"
        ),
    }
    rows = _examples(findings, data, images, texts, num_shown)
    if rows:
        title = f"{name}: image asked with, then the nearest images (green: right)"
        figures[f"analogy_{name}_examples"] = draw_image_rows(rows, title)
    return figures


def _examples(
    findings: Findings, data: AnalogySet, images: Tensor, texts: dict[str, Tensor], num_shown: int
) -> list[ImageRow]:
    """The first queries of each relation in the reported half, in Korean and in English."""
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
        asked = asked_with(shown, images, texts, PAIRINGS[language], scales[language])
        found = nearest_images(shown, asked, images, top).tolist()
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
