"""Panels of images and text as uint8 arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kelip_lightning.drawing.fonts import drawable, load_font

THUMBNAIL = 96
"""Side of an image in a panel, pixels."""

_TEXT_SIZE = 15
_TITLE_SIZE = 17
_LINE = 23
_MARGIN = 12
_COLUMN = 330
_HEADER = 2 * _MARGIN + 2 * _LINE
_ROW = THUMBNAIL + 2 * _MARGIN
_BLACK, _GREY, _GREEN, _RULE, _BAR = ((24, 24, 24), (110, 110, 110), (0, 120, 60), (216, 216, 216), (228, 238, 250))
_ROW_SIDE, _ROW_GAP, _ROW_MARGIN = 64, 8, 16
_ROW_LABEL, _ROW_LINE, _ROW_TITLE_SIZE = 330, 21, 18
_ROW_HEADER = 2 * _ROW_MARGIN + _ROW_TITLE_SIZE
_FRAME, _ROW_RULE = (0, 150, 70), (224, 224, 224)
_LANGUAGE_NAMES = {"ko": "한국어 (Korean)", "en": "English"}


@dataclass(kw_only=True, slots=True, frozen=True)
class RankedCaption:
    """A caption that the model ranked for an image."""

    text: str
    probability: float
    """In [0, 1]."""
    right: bool
    """Whether it is the image's caption."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PanelRow:
    """One image with its captions."""

    image: np.ndarray
    """uint8 (H, W, 3)."""
    true_captions: list[str]
    """One per language."""
    ranked: dict[str, list[RankedCaption]]
    """Language -> captions, most probable first."""


def draw_caption_panel(rows: list[PanelRow], title: str) -> np.ndarray:
    """A panel with one row per image: image, true captions, top captions of each language.

    Correct captions are green; the length of the bar behind a caption is its probability.

    Returns:
        uint8 (H, W, 3).
    """
    languages = list(rows[0].ranked)
    width = THUMBNAIL + 3 * _MARGIN + (1 + len(languages)) * (_COLUMN + _MARGIN)
    canvas = Image.new("RGB", (width, _HEADER + len(rows) * _ROW), "white")
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, title, languages)
    for place, row in enumerate(rows):
        top = _HEADER + place * _ROW
        draw.line([(0, top), (width, top)], fill=_RULE)
        canvas.paste(thumbnail(row.image), (_MARGIN, top + _MARGIN))
        for line, caption in enumerate(row.true_captions):
            _draw_text(draw, (_column_left(0), top + _MARGIN + line * _LINE), caption, _BLACK)
        for column, language in enumerate(languages, start=1):
            _draw_ranked(draw, _column_left(column), top + _MARGIN, row.ranked[language])
    return np.asarray(canvas)


def thumbnail(image: np.ndarray, side: int = THUMBNAIL) -> Image.Image:
    """The uint8 image (H, W, 3) as a square of `side` pixels."""
    return Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)


def draw_labelled_rows(rows: dict[str, list[np.ndarray]], side: int) -> np.ndarray:
    """A grid with one labelled row per entry.

    Args:
        rows: Label -> uint8 images (H, W, 3).
        side: Side of an image in the grid, pixels.

    Returns:
        uint8 (H', W', 3).
    """
    label_width, gap = 120, 4
    num_columns = max(len(images) for images in rows.values())
    size = (label_width + num_columns * (side + gap), len(rows) * (side + gap))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for place, (label, images) in enumerate(rows.items()):
        top = place * (side + gap)
        _draw_text(draw, (_MARGIN, top + side // 2 - _TEXT_SIZE // 2), label, _BLACK)
        for column, image in enumerate(images):
            # Nearest neighbour, so that patch borders and pasted pixels stay exact.
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (label_width + column * (side + gap), top))
    return np.asarray(canvas)


def _draw_header(draw: ImageDraw.ImageDraw, title: str, languages: list[str]) -> None:
    draw.text((_MARGIN, _MARGIN), drawable(title), fill=_BLACK, font=load_font(_TITLE_SIZE))
    names = ["정답 (true)", *(_LANGUAGE_NAMES.get(language, language) for language in languages)]
    for column, name in enumerate(names):
        _draw_text(draw, (_column_left(column), _MARGIN + _LINE + 4), name, _GREY)


def _draw_ranked(draw: ImageDraw.ImageDraw, left: int, top: int, captions: list[RankedCaption]) -> None:
    for line, caption in enumerate(captions):
        y = top + line * _LINE
        bar = round(_COLUMN * caption.probability)
        if bar:
            draw.rectangle([left, y - 3, left + bar, y + _LINE - 6], fill=_BAR)
        text = f"{100 * caption.probability:.0f}%  {caption.text}"
        _draw_text(draw, (left, y), text, _GREEN if caption.right else _BLACK)


def _draw_text(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, fill: tuple[int, int, int]) -> None:
    font = load_font(_TEXT_SIZE)
    draw.text(place, shorten(drawable(text), font, _COLUMN), fill=fill, font=font)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its middle elided if it is wider than `width` pixels.

    The end is kept because variants of a concept differ there (": medium skin tone").
    """
    kept, shown = len(text), text
    while font.getlength(shown) > width and kept:
        kept -= 1
        shown = text[: (kept + 1) // 2].rstrip() + "…" + text[len(text) - kept // 2 :].lstrip()
    return shown


def _column_left(column: int) -> int:
    return THUMBNAIL + 2 * _MARGIN + column * (_COLUMN + _MARGIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """Lines of text, a separate first image, and a row of images."""

    words: Sequence[str]
    """At most three lines; the first is dark, the others grey."""
    lead: np.ndarray
    """uint8 (H, W, 3)."""
    images: Sequence[np.ndarray]
    """uint8 (H, W, 3) each."""
    right: frozenset[int] = field(default_factory=frozenset)
    """Indices of `images` with a green frame."""
    rule_above: bool = False
    """Whether a line separates it from the row above."""


def draw_image_rows(rows: Sequence[ImageRow], title: str) -> np.ndarray:
    """Draw the rows below one another.

    Args:
        rows: At least one.
        title: Heading.

    Returns:
        uint8 (H, W, 3).
    """
    columns = max(len(row.images) for row in rows)
    width = _ROW_LABEL + (columns + 1) * (_ROW_SIDE + _ROW_GAP) + 4 * _ROW_MARGIN
    canvas = Image.new("RGB", (width, _ROW_HEADER + len(rows) * (_ROW_SIDE + _ROW_GAP) + _ROW_MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_ROW_MARGIN, _ROW_MARGIN), drawable(title), fill=_BLACK, font=load_font(_ROW_TITLE_SIZE))
    for place, row in enumerate(rows):
        _draw_row(canvas, draw, row, _ROW_HEADER + place * (_ROW_SIDE + _ROW_GAP))
    return np.asarray(canvas)


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: ImageRow, top: int) -> None:
    if row.rule_above:
        draw.line(
            [(_ROW_MARGIN, top - _ROW_GAP // 2), (canvas.width - _ROW_MARGIN, top - _ROW_GAP // 2)], fill=_ROW_RULE
        )
    font = load_font(_TEXT_SIZE)
    for line, words in enumerate(row.words):
        text = shorten(drawable(words), font, _ROW_LABEL)
        draw.text((_ROW_MARGIN, top + line * _ROW_LINE), text, fill=_GREY if line else _BLACK, font=font)
    lead = _ROW_LABEL + 2 * _ROW_MARGIN
    canvas.paste(thumbnail(row.lead, _ROW_SIDE), (lead, top))
    for column, image in enumerate(row.images):
        left = lead + _ROW_MARGIN + (column + 1) * (_ROW_SIDE + _ROW_GAP)
        canvas.paste(thumbnail(image, _ROW_SIDE), (left, top))
        if column in row.right:
            draw.rectangle([left - 3, top - 3, left + _ROW_SIDE + 2, top + _ROW_SIDE + 2], outline=_FRAME, width=3)
