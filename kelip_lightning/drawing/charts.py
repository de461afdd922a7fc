"""Charts of estimates and of training curves, by matplotlib's object API, in the font that ships with the project.

Sizes are in pixels: at 72 dots per inch a point is a pixel.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ticker import EngFormatter, MaxNLocator

from kelip_lightning.drawing.fonts import FONT_FILE, drawable, load_font
from kelip_lightning.drawing.panels import shorten

BLUE = "#1f5aa6"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5b4a9c", "#444444")
"""Okabe and Ito's colour-blind safe palette, three colours darkened for thin lines."""
DASHES = ("", "6 3", "2 3")
_GREY, _RULE = "#6e6e6e", "#e0e0e0"
_DPI = 72
_LONGEST_OF_TWO = 18
"""Letters of the longest name with which a legend has two columns."""
_SVG_WIDTH = 360
"""Pages show a chart at this many pixels or more."""
_TEXT_SIZE, _LABEL, _NUMBERS, _LINE = 15, 400, 240, 26
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": _GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": False,  # the font has no minus sign
    "figure.dpi": _DPI,
    "grid.color": _RULE,
    "svg.fonttype": "path",  # Hangul without the font
    "svg.hashsalt": "kelip",  # the same text each time
    "text.parse_math": False,
    "xtick.color": _GREY,
    "xtick.labelcolor": "black",
}

Curve = Sequence[tuple[float, float]]
"""(x, y) of each point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartRow:
    """An estimate with its interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    """`low` and `high` are `None` if the interval is unknown."""
    chance: float | None = None
    """Drawn as a grey tick."""
    colour: str = BLUE


def style_of(variants: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Variant -> (colour, SVG dashes) of its line; 24 are distinct."""
    return {
        name: (COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)])
        for index, name in enumerate(variants)
    }


def interval_chart(rows: Sequence[ChartRow], title: str) -> np.ndarray:
    """A point and whiskers per row on one axis, which includes zero; labels on the left, numbers on the right.

    Args:
        rows: At least one.
        title: Heading.

    Returns:
        uint8 (H, W, 3).
    """
    with _style(_TEXT_SIZE):
        figure, axes = _figure(1154, 96 + _LINE * len(rows), left=_LABEL + 24, right=_NUMBERS, top=52, bottom=44)
        figure.text(16 / 1154, 1 - 28 / figure.bbox.height, drawable(title), fontsize=_TEXT_SIZE + 3, va="center")
        _draw_rows(axes, rows)
        labels = [shorten(drawable(row.label), load_font(_TEXT_SIZE), _LABEL) for row in rows]
        axes.set_yticks(range(len(rows)), labels)
        for place, row in enumerate(rows):
            interval = "" if row.low is None or row.high is None else f"  [{row.low:z.3f}, {row.high:z.3f}]"
            across = axes.get_yaxis_transform()
            axes.text(1.03, place, f"{row.value:z.3f}{interval}", transform=across, va="center_baseline")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def difference_chart(rows: Sequence[ChartRow], title: str, axis: str) -> str:
    """SVG: a point and whiskers per row, its label above them, zero marked.

    Args:
        rows: From the top.
        title: Alternative text.
        axis: Title of the axis.
    """
    with _style(12):
        figure, axes = _figure(_SVG_WIDTH, 62 + 42 * len(rows), left=10, right=10, top=8, bottom=44)
        axes.set_xlabel(drawable(axis))
        _draw_rows(axes, rows)
        axes.set_yticks([])
        for place, row in enumerate(rows):
            # White behind the text, so that the line at zero does not cross it.
            white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            across = axes.get_yaxis_transform()
            axes.text(0, place - 0.36, drawable(row.label), transform=across, va="center", bbox=white)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda points, _: f"{points:+g}" if points else "0")
        return _svg(figure, title)


LEVELS = (":", "-.")
"""Line styles of the levels of a chart, in order."""


def curve_chart(
    curves: Mapping[str, Sequence[Curve]],
    styles: Mapping[str, tuple[str, str]],
    title: str,
    axes_titles: tuple[str, str],
    *,
    levels: Mapping[str, float] | None = None,
    from_zero: bool = True,
) -> str:
    """SVG: thin lines for the seeds of a variant, a thick line for their mean if all have the same x values.

    Args:
        curves: Variant -> a curve per seed.
        styles: Variant -> colour and dashes, as from `style_of`.
        title: Alternative text.
        axes_titles: Of the x axis and of the y axis.
        levels: Name -> value of a horizontal grey line (chance, untrained), named in the legend.
        from_zero: Whether the y axis begins at zero or below.
    """
    levels = levels or {}
    columns = 2 if max(map(len, styles), default=0) <= _LONGEST_OF_TWO else 1
    legend = 16 * math.ceil((len(styles) + len(levels)) / columns)
    with _style(12):
        figure, axes = _figure(_SVG_WIDTH, 250 + legend, left=58, right=12, top=12, bottom=50 + legend)
        for variant, (colour, dashes) in styles.items():
            dash = (0, tuple(map(float, dashes.split()))) if dashes else "-"
            line: dict[str, Any] = {"color": colour, "linestyle": dash}
            seeds = [np.asarray(curve, dtype=float).T for curve in curves.get(variant, ())]
            for x, y in seeds:
                axes.plot(x, y, alpha=0.3, linewidth=1, **line)
            alike = bool(seeds) and all(np.array_equal(seed[0], seeds[0][0]) for seed in seeds)
            mean_x, mean_y = np.mean(seeds, axis=0) if alike else ([], [])
            axes.plot(mean_x, mean_y, linewidth=2.2, label=drawable(variant), **line)
        for dashes, (name, value) in zip(LEVELS, levels.items(), strict=False):
            axes.axhline(value, color=_GREY, linestyle=dashes, linewidth=1.4, label=drawable(name))
        axes.set_xlim(left=0)
        lowest = min((y for seeds in curves.values() for curve in seeds for _, y in curve), default=0.0)
        if from_zero:
            axes.set_ylim(bottom=min(0.0, lowest, *levels.values()))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_xlabel(axes_titles[0])
        axes.set_ylabel(axes_titles[1])
        figure.legend(loc="lower center", ncols=columns, frameon=False, borderpad=0, labelspacing=0.3, handlelength=2.5)
        return _svg(figure, title)


@contextmanager
def _style(text_size: float) -> Iterator[None]:
    """Matplotlib's defaults with ours over them, whatever the user's matplotlibrc sets."""
    with style.context(["default", _STYLE | {"font.family": _font_family(), "font.size": text_size}]):
        yield


@cache
def _font_family() -> str:
    load_font(_TEXT_SIZE)  # its message tells how to restore a missing file
    fontManager.addfont(FONT_FILE)
    return FontProperties(fname=FONT_FILE).get_name()


def _figure(width: int, height: int, *, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """A figure and its axes, inside the margins."""
    figure = Figure(figsize=(width / _DPI, height / _DPI))
    size = ((width - left - right) / width, (height - top - bottom) / height)
    return figure, figure.add_axes((left / width, bottom / height, *size))


def _draw_rows(axes: Axes, rows: Sequence[ChartRow]) -> None:
    """Row i at y = i, from the top."""
    axes.axvline(0, color=_GREY, linewidth=1, linestyle="--")
    for place, row in enumerate(rows):
        if row.low is not None and row.high is not None:
            ends, middle = [row.low, row.high], [place, place]
            axes.plot(ends, middle, color=row.colour, linewidth=2, marker="|", markersize=9, markeredgewidth=2)
        axes.plot(row.value, place, color=row.colour, marker="o", markersize=8)
        if row.chance is not None:
            axes.plot(row.chance, place, color=_GREY, marker="|", markersize=18, markeredgewidth=2)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _svg(figure: Figure, title: str) -> str:
    """The `<svg>` element alone, so that it can be part of an HTML page."""
    stream = io.StringIO()
    # Without metadata, because it names other hosts; that of a title would, too.
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    attributes, _, content = stream.getvalue().partition("<svg ")[2].partition(">")
    return f'<svg role="img" {attributes}><title>{escape(title)}</title>{content.rstrip()}'
