"""Panels of images and text as uint8 arrays.

Those for TensorBoard are narrow and high: its Images page shows every picture 350 pixels wide, whatever its height.
"""

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
_PANEL = _COLUMN + 2 * _MARGIN
"""Width of a panel for TensorBoard, pixels."""
_HEADER = 2 * _MARGIN + _LINE
_BLACK, _GREY, _GREEN, _RULE, _BAR = ((24, 24, 24), (110, 110, 110), (0, 120, 60), (216, 216, 216), (228, 238, 250))
_ROW_SIDE, _ROW_GAP, _ROW_MARGIN = 64, 8, 16
_ROW_LABEL, _ROW_LINE, _ROW_TITLE_SIZE = 330, 21, 18
_ROW_HEADER = 2 * _ROW_MARGIN + _ROW_TITLE_SIZE
_FRAME, _ROW_RULE = (0, 150, 70), (224, 224, 224)
_SHARE_COLUMN = 88
_NAMES_COLUMN = _COLUMN - _SHARE_COLUMN - _MARGIN
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
    """A panel with one row per image: image, true captions or classes beside it, below them the top ones.

    Those of each language are below one another. The correct one is green, with a green square before it; the length of
    the bar behind a text is its probability. The height of a row fits any number of texts. A language that a row lacks
    stays empty in it.

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
    lead = max(THUMBNAIL, max(len(row.true_captions) for row in rows) * _LINE) + 2 * _MARGIN
    block = max(len(texts) for row in rows for texts in row.ranked.values()) * _LINE + _MARGIN
    height = lead + len(languages) * block
    canvas = Image.new("RGB", (_PANEL, _HEADER + len(rows) * height), "white")
    draw = ImageDraw.Draw(canvas)
    _draw_title(draw, title)
    beside = 2 * _MARGIN + THUMBNAIL
    for place, row in enumerate(rows):
        top = _HEADER + place * height
        draw.line([(0, top), (_PANEL, top)], fill=_RULE)
        canvas.paste(thumbnail(row.image), (_MARGIN, top + _MARGIN))
        for line, caption in enumerate(row.true_captions):
            _draw_text(draw, (beside, top + _MARGIN + line * _LINE), caption, _BLACK, _PANEL - _MARGIN - beside)
        for number, language in enumerate(languages):
            _draw_ranked(draw, _MARGIN, top + lead + number * block, row.ranked.get(language, []))
    return np.asarray(canvas)


def thumbnail(image: np.ndarray, side: int = THUMBNAIL) -> Image.Image:
    """The uint8 image (H, W, 3) as a square of `side` pixels."""
    return Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)


def draw_labelled_columns(columns: dict[str, list[np.ndarray]], side: int) -> np.ndarray:
    """A grid with one labelled column per entry.

    Args:
        columns: Label -> uint8 images (H, W, 3).
        side: Side of an image in the grid, pixels; labels grow with it.

    Returns:
        uint8 (H', W', 3).
    """
    gap, text_size = 4, max(_TEXT_SIZE, side // 8)
    header, font = 2 * text_size, load_font(text_size)
    num_rows = max(len(images) for images in columns.values())
    size = (len(columns) * (side + gap), header + num_rows * (side + gap))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for column, (label, images) in enumerate(columns.items()):
        left = column * (side + gap)
        draw.text((left, header // 4), shorten(drawable(label), font, side), fill=_BLACK, font=font)
        for place, image in enumerate(images):
            # Nearest neighbour, so that patch borders and pasted pixels stay exact.
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (left, header + place * (side + gap)))
    return np.asarray(canvas)


def _draw_title(draw: ImageDraw.ImageDraw, title: str) -> None:
    font = load_font(_TITLE_SIZE)
    draw.text((_MARGIN, _MARGIN), shorten(drawable(title), font, _COLUMN), fill=_BLACK, font=font)


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


def _draw_text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, fill: tuple[int, int, int], width: int = _COLUMN
) -> None:
    font = load_font(_TEXT_SIZE)
    draw.text(place, shorten(drawable(text), font, width), fill=fill, font=font)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its middle elided if it is wider than `width` pixels.

    The end is kept because variants of a concept differ there (": medium skin tone").
    """
    kept, shown = len(text), text
    while font.getlength(shown) > width and kept:
        kept -= 1
        shown = text[: (kept + 1) // 2].rstrip() + "…" + text[len(text) - kept // 2 :].lstrip()
    return shown


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
    """A list of confused classes: true class, below it the predicted one, share of the true class's images as a bar.

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
    row_height, top = 2 * _LINE + _MARGIN, 2 * _MARGIN + _LINE
    height = top + sum(_LINE + _MARGIN + len(rows) * row_height for rows in sections.values())
    canvas = Image.new("RGB", (_PANEL, height if pairs else height + _LINE + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    _draw_title(draw, title)
    if not pairs:
        _draw_text(draw, (_MARGIN, top), "혼동 없음 (no confused classes)", _GREY)
    for language, rows in sections.items():
        _draw_text(
            draw, (_MARGIN, top), f"{_LANGUAGE_NAMES.get(language, language)}: 정답 → 예측", _GREY, _NAMES_COLUMN
        )
        _draw_text(draw, (_PANEL - _MARGIN - _SHARE_COLUMN, top), "비율 (share)", _GREY, _SHARE_COLUMN)
        top += _LINE + _MARGIN
        for pair in rows:
            draw.line([(0, top - _MARGIN // 2), (_PANEL, top - _MARGIN // 2)], fill=_RULE)
            _draw_confused_pair(draw, top, pair)
            top += row_height
    return np.asarray(canvas)


def _draw_confused_pair(draw: ImageDraw.ImageDraw, top: int, pair: ConfusedPair) -> None:
    for line, (sign, names) in enumerate((("", pair.true), ("→ ", pair.predicted))):
        text = sign + " · ".join(names.values())
        _draw_text(draw, (_MARGIN, top + line * _LINE), text, _GREY if line else _BLACK, _NAMES_COLUMN)
    left = _PANEL - _MARGIN - _SHARE_COLUMN
    bar = round(_SHARE_COLUMN * pair.share)
    if bar:
        draw.rectangle([left, top - 3, left + bar - 1, top + _LINE - 6], fill=_BAR)
    _draw_text(draw, (left, top), f"{100 * pair.share:.0f}%  ({pair.count})", _BLACK, _SHARE_COLUMN)
