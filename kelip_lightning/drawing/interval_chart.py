"""Chart of estimates with their intervals, one per row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from kelip_lightning.drawing.fonts import drawable, load_font
from kelip_lightning.drawing.panels import shorten

_TEXT_SIZE, _TITLE_SIZE = 15, 18
_LINE, _MARGIN = 26, 16
_LABEL, _PLOT, _NUMBERS = 400, 480, 210
_BLACK, _GREY, _RULE, _BLUE = (24, 24, 24), (110, 110, 110), (224, 224, 224), (31, 90, 166)
_HEADER = 2 * _MARGIN + _TITLE_SIZE + _LINE

Across = Callable[[float], int]
"""Value -> position on the axis, pixels from the left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartRow:
    """One row of the chart."""

    label: str
    value: float
    low: float
    high: float
    chance: float | None = None
    """Drawn as a grey tick."""


def draw_interval_chart(rows: Sequence[ChartRow], title: str) -> np.ndarray:
    """A point and whiskers per row on one axis, which includes zero with a vertical line; numbers on the right.

    Args:
        rows: At least one.
        title: Heading.

    Returns:
        uint8 (H, W, 3).
    """
    low = min(0.0, *(row.low for row in rows))
    high = max(0.0, *(max(row.high, row.chance or 0.0) for row in rows))
    span = (high - low) or 1.0
    width = _LABEL + _PLOT + _NUMBERS + 4 * _MARGIN
    canvas = Image.new("RGB", (width, _HEADER + len(rows) * _LINE + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)

    def across(value: float) -> int:
        return _LABEL + 2 * _MARGIN + round(_PLOT * (value - low) / span)

    draw.text((_MARGIN, _MARGIN), drawable(title), fill=_BLACK, font=load_font(_TITLE_SIZE))
    _draw_axis(draw, (low, 0.0, high), across, canvas.height)
    for place, row in enumerate(rows):
        _draw_row(draw, row, _HEADER + place * _LINE, across)
    return np.asarray(canvas)


def _draw_axis(draw: ImageDraw.ImageDraw, ticks: Sequence[float], across: Across, height: int) -> None:
    font = load_font(_TEXT_SIZE)
    for tick in ticks:
        x = across(tick)
        if tick and abs(x - across(0.0)) < 2 * _LINE:
            continue  # its label would overlap that of zero
        draw.line([(x, _HEADER - 4), (x, height - _MARGIN)], fill=_RULE, width=1)
        text = f"{tick:z.2f}"
        draw.text((x - font.getlength(text) / 2, _HEADER - _LINE), text, fill=_GREY, font=font)


def _draw_row(draw: ImageDraw.ImageDraw, row: ChartRow, top: int, across: Across) -> None:
    font, middle = load_font(_TEXT_SIZE), top + _LINE // 2
    label = shorten(drawable(row.label), font, _LABEL)
    draw.text((_MARGIN, top + 4), label, fill=_BLACK, font=font)
    draw.line([(across(row.low), middle), (across(row.high), middle)], fill=_BLUE, width=2)
    for end in (row.low, row.high):
        draw.line([(across(end), middle - 4), (across(end), middle + 4)], fill=_BLUE, width=2)
    x = across(row.value)
    draw.ellipse([x - 4, middle - 4, x + 4, middle + 4], fill=_BLUE)
    if row.chance is not None:
        x = across(row.chance)
        draw.line([(x, middle - 9), (x, middle + 9)], fill=_GREY, width=2)
    numbers = f"{row.value:z.3f}  [{row.low:z.3f}, {row.high:z.3f}]"
    draw.text((_LABEL + _PLOT + 3 * _MARGIN, top + 4), drawable(numbers), fill=_BLACK, font=font)
