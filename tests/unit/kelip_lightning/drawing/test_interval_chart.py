"""Where points and whiskers are drawn."""

import numpy as np

from kelip_lightning.analyses.output import Finding
from kelip_lightning.analyses.plots import row_of
from kelip_lightning.drawing.interval_chart import ChartRow, draw_interval_chart
from kelip_lightning.statistics.bootstrap import Interval

BLUE = (31, 90, 166)


def blue_columns(chart: np.ndarray) -> np.ndarray:
    return np.flatnonzero((chart == BLUE).all(axis=2).any(axis=0))


def test_draw_interval_chart__a_wider_interval_is_drawn_wider() -> None:
    def width(low: float, high: float) -> int:
        other = ChartRow(label="다른 것", value=1.0, low=1.0, high=1.0)
        chart = draw_interval_chart([ChartRow(label="한국어", value=0.5, low=low, high=high), other], "제목")
        top = chart[: chart.shape[0] - 50]  # without the second row, which only fixes the axis
        columns = blue_columns(top)
        return int(columns.max() - columns.min())

    assert 1.9 < width(0.2, 0.8) / width(0.35, 0.65) < 2.1


def test_draw_interval_chart__hangul_is_drawn_and_zero_is_on_the_axis() -> None:
    row = {"value": 0.9, "low": 0.8, "high": 1.0}
    korean, empty = (draw_interval_chart([ChartRow(label=label, **row)], "t") for label in ("밥상", ""))
    assert (korean != empty).any()
    only_high = blue_columns(empty)
    wide = blue_columns(draw_interval_chart([ChartRow(label="", value=0.5, low=0.0, high=1.0)], "t"))
    assert only_high.min() > wide.min() + 300  # the axis begins at zero, not at the lowest interval


def test_row_of__keeps_the_numbers() -> None:
    finding = Finding(subject="s", measure="m", interval=Interval(value=0.5, low=0.4, high=0.6), count=3, chance=0.1)
    assert row_of(finding, "밥") == ChartRow(label="밥", value=0.5, low=0.4, high=0.6, chance=0.1)
