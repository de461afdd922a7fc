"""How values of results.csv are written, and the names of metrics."""

from typing import Any

import pytest

from kelip_lightning.ablations.report.tables import answers, axis_title, metric_label, summary, unit_after, written

COSINE = "eval/captions/matched_minus_random"


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
        ("steps_share", 0.876, "88%"),
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


def test_written__cosines_are_themselves() -> None:
    assert written("mean", 0.1234, COSINE) == "0.123"
    assert written("difference", -0.0126, COSINE) == "-0.013"
    assert (unit_after(COSINE), unit_after("eval/a_ko/zero_shot_top1", difference=True)) == ("", " points")


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("eval/a_ko/image_to_text_R@5", "R@5, %"),
        ("eval/a_ko/zero_shot_top1", "top 1, %"),
        (COSINE, "difference of cosines"),
    ],
)
def test_axis_title(metric: str, title: str) -> None:
    assert axis_title(metric) == title


def _row(metric: str, variant: str, verdict: str | None) -> dict[str, Any]:
    return {"metric": metric, "items": "all", "variant": variant, "verdict": verdict}


def test_answers__yes_no_or_inconclusive_on_each_metric_and_over_all() -> None:
    first, second = "eval/a_ko/image_to_text_R@1", "eval/a_en/image_to_text_R@1"
    rows = [
        *(_row(metric, "base", None) for metric in (first, second)),
        *(_row(first, *one) for one in (("a", "inconclusive"), ("b", "worse"), ("c", "better"))),
        *(_row(second, *one) for one in (("a", "inconclusive"), ("b", "inconclusive"), ("c", "better"))),
    ]
    found = answers(rows, [first, second])
    assert [(row["variant"], word) for row, word in found[0].verdicts] == [
        ("c", "Yes"),
        ("b", "No"),
        ("a", "Inconclusive"),
    ]
    assert [one.reference and one.reference["variant"] for one in found] == ["base", "base"]
    assert summary(found, "base") == [
        "Yes, higher than base on the judged metrics: c (on 2 of 2).",
        "No, lower than base on the judged metrics: b (on 1 of 2).",
        "Inconclusive on every judged metric: a.",
    ]
    assert summary(answers([_row(first, "base", None)], [first]), "base") == ["Nothing to compare yet."]
