"""Rows of images, each with some words beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from kelip_lightning.drawing.fonts import drawable, load_font
from kelip_lightning.drawing.panels import shorten, thumbnail

_SIDE, _GAP, _MARGIN = 64, 8, 16
_LABEL, _TEXT_SIZE, _TITLE_SIZE, _LINE = 330, 15, 18, 21
_BLACK, _GREY, _GREEN, _RULE = (24, 24, 24), (110, 110, 110), (0, 150, 70), (224, 224, 224)
_HEADER = 2 * _MARGIN + _TITLE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """Words, a first image that stands apart, and a row of images."""

    words: Sequence[str]
    """At most three lines; the first one is dark, the others grey."""
    lead: np.ndarray
    """uint8 (H, W, 3)."""
    images: Sequence[np.ndarray]
    """uint8 (H, W, 3) each."""
    right: frozenset[int] = field(default_factory=frozenset)
    """Places among `images` that get a green frame."""
    rule_above: bool = False
    """Whether a line parts it from the row above."""


def draw_image_rows(rows: Sequence[ImageRow], title: str) -> np.ndarray:
    """The rows below one another.

    Args:
        rows: At least one.
        title: Heading.

    Returns:
        uint8 (H, W, 3).
    """
    columns = max(len(row.images) for row in rows)
    width = _LABEL + (columns + 1) * (_SIDE + _GAP) + 4 * _MARGIN
    canvas = Image.new("RGB", (width, _HEADER + len(rows) * (_SIDE + _GAP) + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), drawable(title), fill=_BLACK, font=load_font(_TITLE_SIZE))
    for place, row in enumerate(rows):
        _draw_row(canvas, draw, row, _HEADER + place * (_SIDE + _GAP))
    return np.asarray(canvas)


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: ImageRow, top: int) -> None:
    if row.rule_above:
        draw.line([(_MARGIN, top - _GAP // 2), (canvas.width - _MARGIN, top - _GAP // 2)], fill=_RULE)
    font = load_font(_TEXT_SIZE)
    for line, words in enumerate(row.words):
        text = shorten(drawable(words), font, _LABEL)
        draw.text((_MARGIN, top + line * _LINE), text, fill=_GREY if line else _BLACK, font=font)
    lead = _LABEL + 2 * _MARGIN
    canvas.paste(thumbnail(row.lead, _SIDE), (lead, top))
    for column, image in enumerate(row.images):
        left = lead + _MARGIN + (column + 1) * (_SIDE + _GAP)
        canvas.paste(thumbnail(image, _SIDE), (left, top))
        if column in row.right:
            draw.rectangle([left - 3, top - 3, left + _SIDE + 2, top + _SIDE + 2], outline=_GREEN, width=3)
