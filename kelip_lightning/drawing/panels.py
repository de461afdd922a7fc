"""Draws panels of images and text as uint8 arrays; knows no model."""

from dataclasses import dataclass

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
_BLACK, _GREY, _GREEN, _RULE, _BAR = (
    (24, 24, 24),
    (110, 110, 110),
    (0, 120, 60),
    (216, 216, 216),
    (228, 238, 250),
)
_LANGUAGE_NAMES = {"ko": "한국어 (Korean)", "en": "English"}


@dataclass(kw_only=True, slots=True, frozen=True)
class RankedCaption:
    """A caption that the model gave to an image."""

    text: str
    probability: float
    """In [0, 1]."""
    right: bool
    """Whether it is the image's own."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PanelRow:
    """One image and what is said about it."""

    image: np.ndarray
    """uint8 (H, W, 3)."""
    true_captions: list[str]
    """One per language."""
    ranked: dict[str, list[RankedCaption]]
    """Language -> captions, likeliest first."""


def draw_caption_panel(rows: list[PanelRow], title: str) -> np.ndarray:
    """A panel with one row per image: image, true captions, top captions of each language.

    A right caption is green; the bar behind a caption is as long as its probability.

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
    """The text, or its beginning and end where it is longer than `width` pixels.

    The end stays because variants of a concept differ there (": medium skin tone").
    """
    kept, shown = len(text), text
    while font.getlength(shown) > width and kept:
        kept -= 1
        shown = text[: (kept + 1) // 2].rstrip() + "…" + text[len(text) - kept // 2 :].lstrip()
    return shown


def _column_left(column: int) -> int:
    return THUMBNAIL + 2 * _MARGIN + column * (_COLUMN + _MARGIN)
