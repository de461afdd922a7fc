"""Figures of the culture analysis."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from data_modules.word_pairs import WordPair
from kelip_lightning.analyses.culture import PairImages
from kelip_lightning.analyses.records import Findings, Item, number
from kelip_lightning.figures.image_rows import ImageRow, draw_image_rows
from kelip_lightning.figures.interval_chart import draw_interval_chart, row_of


def culture_figures(
    findings: Findings, pairs: Sequence[WordPair], first: PairImages, images: Tensor, num_shown: int
) -> dict[str, np.ndarray]:
    """A chart of the overlap by topic, and the images of the pairs that differ most, of known words first.

    Args:
        findings: Of `compare_words`; the first items are those of the pairs, in their order.
        pairs: P word pairs.
        first: Gallery rows of each pair's first images.
        images: uint8 (M, 3, S, S), the gallery.
        num_shown: Pairs to show.
    """
    overlap = findings.summary[0].measure
    rows = [row_of(one, one.subject) for one in findings.summary if one.measure == overlap]
    title = "Share of images that both words call up (overlap of the first ones)"
    figures = {"overlap": draw_interval_chart(rows, title)}
    order = sorted(range(len(pairs)), key=lambda place: _place(findings.items[place]))
    shown = [row for place in order[:num_shown] for row in _pair_rows(findings.items[place], place, first, images)]
    if shown:
        figures["word_pairs"] = draw_image_rows(shown, "Mean image and first images: 한국어 above, English below")
    return figures


def _place(item: Item) -> tuple[bool, bool, float]:
    """Known words before unknown ones, control pairs last, small p-values first."""
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
