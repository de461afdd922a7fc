"""Names of metrics: parsing inverts building."""

import pytest

from kelip_lightning.evaluation.metric_names import (
    Unit,
    at_k,
    is_rank,
    join_name,
    parse_metric,
    split_name,
    unit_of,
    written,
)


@pytest.mark.parametrize(
    ("metric", "task", "k"),
    [
        ("eval/a_ko/image_to_text_R@10", "eval/a_ko/image_to_text", 10),
        ("eval/captions/ko_to_en_R@1", "eval/captions/ko_to_en", 1),
        ("eval/groups_en/zero_shot_top5", "eval/groups_en/zero_shot", 5),
        ("eval/a_b/matched_minus_random", "eval/a_b/matched_minus_random", None),
    ],
)
def test_parse_metric__task_and_k(metric: str, task: str, k: int | None) -> None:
    assert parse_metric(metric) == (task, k)
    assert k is None or at_k(task, k) == metric


@pytest.mark.parametrize("metric", ["eval/a_ko/median_rank", "eval/a_ko/image_to_text_R@0", "a_ko/image_to_text_R@1"])
def test_parse_metric__refuses_other_text(metric: str) -> None:
    with pytest.raises(ValueError, match="must read like"):
        parse_metric(metric)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("eval/unseen_design_ko/image_to_text", ("unseen_design", "ko", "image_to_text")),
        ("eval/captions/en_to_ko_R@5", ("captions", "en", "en_to_ko_R@5")),
        ("eval/a_b/matched_minus_random", ("a_b", None, "matched_minus_random")),
    ],
)
def test_split_name__set_language_and_rest(name: str, parts: tuple[str, str | None, str]) -> None:
    assert split_name(name) == parts
    data_set, language, rest = parts
    assert join_name(data_set, None if "_to_ko" in rest else language, rest) == name


def test_is_rank__the_median_rank_alone() -> None:
    assert is_rank("eval/a_ko/median_rank") and not is_rank("eval/a_ko/image_to_text_R@1")


@pytest.mark.parametrize(
    ("metric", "unit", "plain", "signed"),
    [
        ("eval/a_ko/image_to_text_R@1", Unit.share, "12.3", "+12.3"),
        ("eval/a_ko/mean_per_class_recall", Unit.share, "12.3", "+12.3"),
        ("eval/captions/matched_minus_random", Unit.cosine, "0.123", "+0.123"),
        ("eval/a_ko/image_to_text_median_rank", Unit.rank, "0.1", "+0.1"),
    ],
)
def test_written__in_the_unit_of_the_metric(metric: str, unit: Unit, plain: str, signed: str) -> None:
    assert unit_of(metric) is unit
    assert (written(metric, 0.1234), written(metric, 0.1234, signed=True)) == (plain, signed)
    assert written(metric, None) == "–"
