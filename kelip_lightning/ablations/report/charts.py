"""Charts as SVG text that inherits the page's font; no plotting library is a dependency."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from kelip_lightning.ablations.collect import CurvePoint
from kelip_lightning.ablations.report.tables import Row

WIDTH = 360
"""SVG units; pages show a chart at this many pixels or more, so text stays readable."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5b4a9c", "#444444")
"""Okabe and Ito's colour-blind safe palette, three colours darkened for thin lines."""
DASHES = ("", "6 3", "2 3")
_VERDICT_COLOURS = {"better": "#00734f", "worse": "#b23a00", "inconclusive": "#666666"}
_FONT = 'font-family="inherit" font-size="12" fill="currentColor"'


def style_of(variants: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Variant -> (colour, dashes) of its line; 24 are distinct."""
    return {
        name: (COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)])
        for index, name in enumerate(variants)
    }


def difference_chart(rows: Sequence[Row], title: str) -> str:
    """Paired differences with their intervals in points, one row per variant, zero marked."""
    shown = [row for row in rows if row["difference"] is not None]
    ends = [100 * row[key] for row in shown for key in ("difference_low", "difference_high", "difference") if row[key]]
    low, high = _padded(min([0.0, *ends]), max([0.0, *ends]))
    height = 34 * len(shown) + 40

    def x(points: float) -> float:
        return 10 + (WIDTH - 20) * (points - low) / (high - low)

    parts = [f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{height - 26}" stroke="#888" stroke-dasharray="3 3"/>']
    for index, row in enumerate(shown):
        y = 26 + 34 * index
        colour = _VERDICT_COLOURS[row["verdict"]]
        parts.append(f'<text x="10" y="{y - 10}" {_FONT}>{escape(row["variant"])}: {row["verdict"]}</text>')
        if row["difference_low"] is not None:
            ends_x = x(100 * row["difference_low"]), x(100 * row["difference_high"])
            parts.append(f'<path d="M{ends_x[0]:.1f} {y}H{ends_x[1]:.1f}" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<circle cx="{x(100 * row["difference"]):.1f}" cy="{y}" r="4.5" fill="{colour}"/>')
    parts += _axis(low, high, x, height - 22, "{:+g}")
    return _svg(height, title, parts)


def curve_chart(points: Sequence[CurvePoint], styles: Mapping[str, tuple[str, str]], title: str, axis: str) -> str:
    """A metric over training, in percent: thin lines for seeds, thick lines for their mean.

    Args:
        points: Of one metric.
        styles: Variant -> colour and dashes.
        title: Alternative text.
        axis: x axis: `step` or `tokens`.
    """
    height, bottom = 240, 205
    across = [float(getattr(point, axis)) for point in points]
    top = _padded(0.0, max([100 * point.value for point in points], default=1.0))[1]
    far = float(max([*across, 1]))

    def x(value: float) -> float:
        return 40 + (WIDTH - 52) * value / far

    def y(percent: float) -> float:
        return bottom - (bottom - 12) * percent / top

    def path(line: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{x(a):.1f} {y(100 * b):.1f}" for a, b in line)

    parts = [
        f'<text x="36" y="{y(tick) + 4:.1f}" text-anchor="end" {_FONT}>{tick:g}</text>'
        f'<path d="M40 {y(tick):.1f}H{WIDTH - 12}" stroke="#ddd"/>'
        for tick in _ticks(0, top)
    ]
    for variant, (colour, dashes) in styles.items():
        seeds: dict[int, list[tuple[float, float]]] = {}
        for point in points:
            if point.variant == variant:
                seeds.setdefault(point.seed, []).append((getattr(point, axis), point.value))
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts += [
            f'<path d="{path(line)}" fill="none" stroke="{colour}" stroke-opacity="0.3"{dash}/>'
            for line in seeds.values()
        ]
        parts += [
            f'<path d="{path(mean)}" fill="none" stroke="{colour}" stroke-width="2.2"{dash}>'
            f"<title>{escape(variant)}</title></path>"
            for mean in _mean_line(list(seeds.values()))
        ]
    form, unit = ("{:g}", 1.0) if axis == "step" else ("{:g} M", 1e6)
    parts += _axis(0, far, x, bottom + 14, form, unit)
    return _svg(height, title, parts)


def _mean_line(lines: Sequence[Sequence[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    """The mean of lines with the same x values, as one line; empty if there is no line or x values differ."""
    places = {tuple(place for place, _ in line) for line in lines}
    if len(places) != 1:
        return []
    (across,) = places
    return [list(zip(across, np.mean([[value for _, value in line] for line in lines], axis=0), strict=True))]


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _axis(low: float, high: float, x: object, y: float, form: str, unit: float = 1) -> list[str]:
    assert callable(x)
    places = [(x(tick * unit), form.format(tick) if tick else "0") for tick in _ticks(low / unit, high / unit)]
    return [f'<text x="{place:.1f}" y="{y}" text-anchor="middle" {_FONT}>{text}</text>' for place, text in places]


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.08 * (high - low) or 1.0
    return low - room if low < 0 else low, high + room


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers between the ends."""
    rough = (high - low) / 4
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(one * magnitude for one in (1, 2, 5, 10) if one * magnitude >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]
