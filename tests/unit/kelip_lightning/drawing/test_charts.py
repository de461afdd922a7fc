"""Where points, whiskers and curves are drawn, and that the font has every character."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from kelip_lightning.drawing.charts import ChartRow, curve_chart, difference_chart, interval_chart, style_of

ROWS = [
    ChartRow(label="한국어", value=0.5, low=0.2, high=0.8, chance=0.1),
    ChartRow(label="펲 é − $x$: 60 %", value=1.0, low=1.0, high=1.0),
    ChartRow(label="a <b> & c", value=0.0, low=None, high=None),
]
SEEDS = [[(0, 10), (1e6, 20)], [(0, 20), (1e6, 60)]]
AXES = ("tokens", "R@1, %")
STYLES = {"기준": ("#0072b2", ""), "longer": ("#d55e00", "6 3")}


def lines(svg: str, style: str) -> np.ndarray:
    """(lines, 2, 2) coordinates of the lines of two points with this style."""
    number = r"([\d.]+)"
    found = re.findall(rf'<path d="M {number} {number} \nL {number} {number} \n" [^>]*{style}', svg)
    return np.array(found, dtype=float).reshape(-1, 2, 2)


def test_interval_chart__hangul_is_drawn() -> None:
    def ink(label: str) -> int:
        return int((interval_chart([ChartRow(label=label, value=0.9, low=0.8, high=1.0)], label) < 128).sum())

    assert ink("밥상") > ink("밥") > ink("")


def test_difference_chart__whiskers_are_at_their_values() -> None:
    svg = difference_chart(ROWS, "t", "points")
    whisker, empty = lines(svg, "stroke: #1f5aa6; stroke-width: 2;")[:, :, 0]
    assert empty[0] == empty[1]
    ((zero, _),) = lines(svg, "stroke-dasharray")[:, :, 0]
    assert (whisker - zero) / (empty[0] - zero) == pytest.approx([0.2, 0.8], abs=1e-4)


def test_curve_chart__the_thick_line_is_the_mean_of_the_seeds() -> None:
    svg = curve_chart({"기준": SEEDS}, STYLES, "t", ("steps", "R@1, %"))
    thin = lines(svg, "stroke-opacity: 0.3")
    thick = lines(svg, "stroke: #0072b2; stroke-width: 2.2")
    assert thick == pytest.approx(thin.mean(axis=0, keepdims=True), abs=1e-4)
    heights = thin[..., 1]
    assert heights[0, 1] == pytest.approx(heights[1, 0])
    assert heights[0, 0] - heights[0, 1] == pytest.approx((heights[1, 0] - heights[1, 1]) / 4, abs=1e-4)


def test_curve_chart__levels_are_at_their_values_and_named() -> None:
    svg = curve_chart({"기준": SEEDS}, STYLES, "t", AXES, levels={"chance": 10.0, "untrained": 20.0})
    (first, last), *_ = lines(svg, "stroke-opacity: 0.3")[..., 1]  # the seed from 10 to 20
    levels = lines(svg, "stroke: #6e6e6e; stroke-width: 1.4")[:, 0, 1]
    assert levels[:2] == pytest.approx([first, last], abs=1e-4)
    assert {"chance", "untrained"} <= set(re.findall("<!-- (.*?) -->", svg))


@pytest.mark.filterwarnings("error")  # of missing glyphs, and of axes without data
@pytest.mark.parametrize(
    ("draw", "labels"),
    [
        (
            lambda: difference_chart(ROWS, "제목 <&>", "points"),
            {"points", "한국어", "ㅍㅔㅍ e - $x$: 60 %", "a &lt;b&gt; &amp; c"},
        ),
        (lambda: difference_chart([], "제목 <&>", "points"), {"points"}),
        (lambda: curve_chart({"longer": [*SEEDS, [(0, 5)]]}, STYLES, "제목 <&>", AXES), {*STYLES, *AXES}),
        (lambda: curve_chart({}, STYLES, "제목 <&>", AXES), {*STYLES, *AXES}),
    ],
)
def test_svg__is_the_same_twice_parses_and_has_every_label(draw: Callable[[], str], labels: set[str]) -> None:
    svg = draw()
    assert draw() == svg
    title = ElementTree.fromstring(svg).find("{http://www.w3.org/2000/svg}title")
    assert title is not None and title.text == "제목 <&>"
    assert labels <= set(re.findall("<!-- (.*?) -->", svg))


def test_style_of__24_distinct_styles() -> None:
    assert len(set(style_of([str(number) for number in range(24)]).values())) == 24
