"""How values of results.csv are written, and the names of metrics."""

from typing import Any

import pytest

from kelip_lightning.ablations.report.tables import metric_label, written


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("mean", 0.12345, "12.3"),
        ("difference", 0.02, "+2.0"),
        ("difference_low", -0.0123, "-1.2"),
        ("chance", None, "–"),
        ("tokens", 4_710_400, "4.7 M"),
        ("tokens", 12_345_678_901, "12.3 G"),
        ("images", 99_999, "99,999"),
        ("adjusted_p_value", 0.0009, "< 0.001"),
        ("adjusted_p_value", 0.0196, "0.020"),
        ("seconds", 1234.5, "1,234"),
        ("num_items", 1200, "1,200"),
    ],
)
def test_written(column: str, value: Any, text: str) -> None:
    assert written(column, value) == text


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("eval/unseen_design_ko/image_to_text_R@1", "unseen_design, ko: image to text R@1"),
        ("eval/captions/ko_to_en_R@5", "captions: ko to en R@5"),
        ("eval/groups_en/zero_shot_top5", "groups, en: zero-shot top 5"),
    ],
)
def test_metric_label(metric: str, label: str) -> None:
    assert metric_label(metric) == label
