"""Which items are shown beside a difference."""

import numpy as np

from kelip_lightning.ablations.examples import Example, find_examples
from kelip_lightning.runs.items import StoredItems

TASK = "eval/set_ko/image_to_text"
METRIC = f"{TASK}_R@1"
TEXTS = ["가", "나", "다", "라"]


def _items(*ranks: int) -> dict[str, StoredItems]:
    return {TASK: StoredItems(outcomes=np.array(ranks), groups=np.arange(4), texts=TEXTS)}


def test_find_examples__by_the_ratio_of_median_ranks_over_common_seeds() -> None:
    runs = {
        "base": {0: _items(9, 0, 50, 3), 1: _items(9, 0, 52, 3)},
        # Seed 2 has no partner.
        "other": {0: _items(0, 3, 50, 3), 1: _items(2, 5, 52, 3), 2: _items(99, 99, 99, 99)},
    }
    assert find_examples(runs, [METRIC]) == [
        Example(metric=METRIC, variant="other", text="가", reference_rank=10.0, rank=2.0),
        Example(metric=METRIC, variant="other", text="나", reference_rank=1.0, rank=5.0),
    ]


def test_find_examples__at_most_so_many_of_either_kind_the_first_among_equals() -> None:
    runs = {"base": {0: _items(9, 9, 0, 0)}, "other": {0: _items(0, 0, 9, 9)}}
    found = find_examples(runs, [METRIC], count=1)
    assert [(one.text, one.is_better) for one in found] == [("가", True), ("다", False)]


def test_find_examples__no_ranks_no_examples() -> None:
    values = {"eval/a/matched_minus_random": StoredItems(outcomes=np.zeros(4), groups=np.arange(4), texts=TEXTS)}
    runs = {"base": {0: values}, "other": {0: values}, "later": {}}
    assert find_examples(runs, ["eval/a/matched_minus_random"]) == []
