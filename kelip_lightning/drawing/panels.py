"""Panels of images and text as uint8 arrays."""

from collections.abc import Mapping, Sequence
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
_BLACK, _GREY, _GREEN, _RULE, _BAR = ((24, 24, 24), (110, 110, 110), (0, 120, 60), (216, 216, 216), (228, 238, 250))
_ROW_SIDE, _ROW_GAP, _ROW_MARGIN = 64, 8, 16
_ROW_LABEL, _ROW_LINE, _ROW_TITLE_SIZE = 330, 21, 18
_ROW_HEADER = 2 * _ROW_MARGIN + _ROW_TITLE_SIZE
_FRAME, _ROW_RULE = (0, 150, 70), (224, 224, 224)
_SHARE_COLUMN = 220
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
    true_captions: Sequence[str]
    """One per language."""
    ranked: dict[str, list[RankedCaption]]
    """Language -> captions, most probable first."""


def draw_top_matches_panel(rows: Sequence[PanelRow], title: str) -> np.ndarray:
    """A panel with one row per image: image, true captions or classes, the top ones of each language.

    The correct one is green, with a green square before it; the length of the bar behind a text is its probability.
    The height of a row fits any number of texts. A language that a row lacks stays empty in it.

    Args:
        rows: At least one.
        title: Heading.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: There is no row.
    """
    if not rows:
        raise ValueError("a panel must have at least one row, got none")
    languages = list(dict.fromkeys(language for row in rows for language in row.ranked))
    num_lines = max(len(texts) for row in rows for texts in (row.true_captions, *row.ranked.values()))
    height = max(THUMBNAIL, num_lines * _LINE) + 2 * _MARGIN
    width = THUMBNAIL + 3 * _MARGIN + (1 + len(languages)) * (_COLUMN + _MARGIN)
    canvas = Image.new("RGB", (width, _HEADER + len(rows) * height), "white")
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, title, languages)
    for place, row in enumerate(rows):
        top = _HEADER + place * height
        draw.line([(0, top), (width, top)], fill=_RULE)
        canvas.paste(thumbnail(row.image), (_MARGIN, top + _MARGIN))
        for line, caption in enumerate(row.true_captions):
            _draw_text(draw, (_column_left(0), top + _MARGIN + line * _LINE), caption, _BLACK)
        for column, language in enumerate(languages, start=1):
            _draw_ranked(draw, _column_left(column), top + _MARGIN, row.ranked.get(language, []))
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
        if caption.right:
            draw.rectangle([left - 9, y + 4, left - 4, y + 9], fill=_FRAME)
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


@dataclass(kw_only=True, slots=True, frozen=True)
class ConfusedPair:
    """Images of one class that were classified as another."""

    language: str
    """Of the class names that the images were classified with: ko or en."""
    true: Mapping[str, str]
    """Language -> name of the true class; a language without a name is left out."""
    predicted: Mapping[str, str]
    """Language -> name of the predicted class."""
    count: int
    """Images."""
    share: float
    """`count` over all images of the true class, in [0, 1]."""


def draw_confusion_panel(pairs: Sequence[ConfusedPair], title: str) -> np.ndarray:
    """A table of confused classes: true class, predicted class, share of the true class's images as a bar.

    One section per language, in the order of `pairs`. Both classes show their names in every language that they have.

    Args:
        pairs: In the order of the rows. Without one, the panel says that no classes are confused.
        title: Heading.

    Returns:
        uint8 (H, W, 3).
    """
    sections: dict[str, list[ConfusedPair]] = {}
    for pair in pairs:
        sections.setdefault(pair.language, []).append(pair)
    num_names = max((len(names) for pair in pairs for names in (pair.true, pair.predicted)), default=1)
    row_height = max(num_names, 1) * _LINE + _MARGIN
    width = 2 * (_COLUMN + _MARGIN) + _SHARE_COLUMN + 2 * _MARGIN
    top = 2 * _MARGIN + _LINE
    height = top + sum(_LINE + _MARGIN + len(rows) * row_height for rows in sections.values())
    canvas = Image.new("RGB", (width, height if pairs else height + _LINE + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    heading = load_font(_TITLE_SIZE)
    draw.text((_MARGIN, _MARGIN), shorten(drawable(title), heading, width - 2 * _MARGIN), fill=_BLACK, font=heading)
    if not pairs:
        _draw_text(draw, (_MARGIN, top), "혼동 없음 (no confused classes)", _GREY)
    for language, rows in sections.items():
        _draw_confusion_header(draw, top, language)
        top += _LINE + _MARGIN
        for pair in rows:
            draw.line([(0, top - _MARGIN // 2), (width, top - _MARGIN // 2)], fill=_RULE)
            _draw_confused_pair(draw, top, pair)
            top += row_height
    return np.asarray(canvas)


def _draw_confusion_header(draw: ImageDraw.ImageDraw, top: int, language: str) -> None:
    names = (f"{_LANGUAGE_NAMES.get(language, language)}: 정답 (true)", "예측 (predicted)", "비율 (share)")
    for column, name in enumerate(names):
        _draw_text(draw, (_MARGIN + column * (_COLUMN + _MARGIN), top), name, _GREY)


def _draw_confused_pair(draw: ImageDraw.ImageDraw, top: int, pair: ConfusedPair) -> None:
    for column, names in enumerate((pair.true, pair.predicted)):
        for line, name in enumerate(names.values()):
            place = (_MARGIN + column * (_COLUMN + _MARGIN), top + line * _LINE)
            _draw_text(draw, place, name, _GREY if line else _BLACK)
    left = _MARGIN + 2 * (_COLUMN + _MARGIN)
    bar = round(_SHARE_COLUMN * pair.share)
    if bar:
        draw.rectangle([left, top - 3, left + bar - 1, top + _LINE - 6], fill=_BAR)
    _draw_text(draw, (left, top), f"{100 * pair.share:.0f}%  ({pair.count})", _BLACK)
