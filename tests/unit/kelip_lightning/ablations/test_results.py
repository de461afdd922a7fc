"""From items to results: against direct computation."""

import numpy as np
import pytest

from kelip_lightning.ablations.results import Example, Result, compute_results, find_examples, matches
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.items import StoredItems
from kelip_lightning.statistics.multiplicity import dunnett
from kelip_lightning.statistics.significance import estimate_mean, paired_difference, pooled_spread

TASK = "eval/set_ko/image_to_text"
METRIC = f"{TASK}_R@1"
TEXTS = ["빨간 사과" if n % 3 == 0 else "배" for n in range(90)]
RATES = {"base": 0.3, "same": 0.3, "good": 0.75}
FOUR = ["가", "나", "다", "라"]
WORDS = {"colour": {"ko": ["빨간"]}, "direction": {"ko": ["왼쪽"]}}


def _items(rate: float, seed: int, texts: list[str] = TEXTS) -> dict[str, StoredItems]:
    ranks = (np.random.default_rng([round(100 * rate), seed]).random(len(texts)) >= rate) * 3
    return {TASK: StoredItems(outcomes=ranks, groups=np.arange(len(texts)) // 2, texts=texts)}


def _runs(seeds: int = 3) -> dict[str, dict[int, dict[str, StoredItems]]]:
    return {
        name: {seed: _items(rate, seed + 7 * (name == "same")) for seed in range(seeds)} for name, rate in RATES.items()
    }


def _rows(results: list[Result], metric: str = METRIC, items: str = "all") -> dict[str, Result]:
    return {one.variant: one for one in results if one.metric == metric and one.items == items}


def test_compute_results__equals_the_statistics_of_the_hits() -> None:
    runs = _runs()
    hits = {name: np.stack([runs[name][seed][TASK].outcomes < 1 for seed in range(3)]).astype(float) for name in RATES}
    groups = np.arange(90) // 2
    spread = pooled_spread(np.array([one.mean(axis=1) for one in hits.values()]))
    differences = {name: paired_difference(hits[name], hits["base"], groups, spread) for name in ("same", "good")}
    both = list(differences.values())
    adjusted = dunnett([one.mean / (one.error or 0.0) for one in both], [one.degrees for one in both])
    rows = _rows(compute_results(runs, [METRIC], {}))
    own = estimate_mean(hits["good"], groups)
    assert (rows["good"].mean, rows["good"].low, rows["good"].high) == (own.mean, own.low, own.high)
    for (name, difference), p_value in zip(differences.items(), adjusted, strict=True):
        row = rows[name]
        assert (row.difference, row.difference_low, row.difference_high) == (
            difference.mean,
            difference.low,
            difference.high,
        )
        assert row.adjusted_p_value == p_value
    assert (rows["good"].verdict, rows["same"].verdict, rows["base"].verdict) == ("better", "inconclusive", None)
    assert rows["base"].difference is None
    assert (rows["good"].num_seeds, rows["good"].num_items) == (3, 90)


def test_compute_results__a_difference_that_is_barely_found_has_low_power() -> None:
    marks = {}
    for rate in (0.3, 0.4, 0.95):
        runs = {"base": _runs()["base"], "other": {seed: _items(rate, seed + 9) for seed in range(3)}}
        row = _rows(compute_results(runs, [METRIC], {}))["other"]
        assert row.difference is not None
        assert row.detectable is not None
        assert row.difference_high is not None
        # Beyond the half width of the interval by the power's share of the normal distribution.
        assert row.detectable > row.difference_high - row.difference
        marks[rate] = row.verdict, row.low_power, abs(row.difference) < row.detectable
    assert marks[0.3][:2] == ("inconclusive", False)
    assert marks[0.95] == ("better", False, False)
    assert marks[0.4] == ("better", True, True)


def test_compute_results__categories_select_their_items() -> None:
    runs = _runs()
    rows = _rows(compute_results(runs, [METRIC], WORDS), items="colour")
    named = [index for index, text in enumerate(TEXTS) if "빨간" in text]
    expected = np.mean([(runs["good"][seed][TASK].outcomes[named] < 1).mean() for seed in range(3)])
    assert rows["good"].mean == pytest.approx(expected)
    assert rows["good"].num_items == 30
    assert not _rows(compute_results(runs, [METRIC], WORDS), items="direction")


def test_compute_results__other_k_are_not_judged() -> None:
    results = compute_results(_runs(), [METRIC], WORDS)
    fives = _rows(results, f"{TASK}_R@5")
    assert fives["base"].mean == 1.0
    assert not fives["base"].judged and _rows(results)["base"].judged


def test_compute_results__missing_seeds_leave_out_pairs() -> None:
    runs = _runs()
    del runs["good"][2], runs["same"][0], runs["same"][1]
    rows = _rows(compute_results(runs, [METRIC], {}))
    assert (rows["good"].num_seeds, rows["good"].verdict) == (2, "better")
    pair = [
        np.stack([runs[name][seed][TASK].outcomes < 1 for seed in (0, 1)]).astype(float) for name in ("good", "base")
    ]
    assert rows["good"].difference == pytest.approx((pair[0] - pair[1]).mean())
    assert (rows["same"].num_seeds, rows["same"].difference_low, rows["same"].verdict) == (1, None, "inconclusive")
    assert rows["good"].adjusted_p_value == rows["good"].p_value  # one comparison is all that could be made


def test_compute_results__refuses_other_items() -> None:
    runs = _runs()
    runs["good"][1] = _items(0.5, 1, ["anything", *TEXTS[1:]])
    with pytest.raises(RunFolderError, match="good, seed 1 was evaluated on other items than base, seed 0"):
        compute_results(runs, [METRIC], {})
    with pytest.raises(RunFolderError, match=r"no run has the items of eval/x_ko/image_to_text_R@1; the tasks are"):
        compute_results(_runs(), ["eval/x_ko/image_to_text_R@1"], {})


def test_matches__whole_words_in_english_and_parts_in_korean() -> None:
    assert matches("a Red apple", "en", ["red"])
    assert not matches("a hundred apples", "en", ["red"])
    assert matches("up-right arrow", "en", ["right"])
    assert matches("빨간색 하트", "ko", ["빨간"])


def test_compute_results__differences_of_cosines_are_averaged_unchanged() -> None:
    task = "eval/captions/matched_minus_random"
    values = {"base": np.linspace(-0.5, 0.1, 30), "good": np.linspace(0.6, 1.9, 30)}
    runs = {
        name: {
            seed: {task: StoredItems(outcomes=one + 0.01 * seed, groups=np.arange(30), texts=["배"] * 30)}
            for seed in range(3)
        }
        for name, one in values.items()
    }
    results = compute_results(runs, [task], WORDS)
    rows = _rows(results, task)
    assert len(results) == 2
    assert rows["base"].mean == pytest.approx(values["base"].mean() + 0.01) and rows["base"].mean < 0
    assert rows["good"].mean > 1 and rows["good"].high is not None and rows["good"].high > 1
    assert (rows["good"].difference, rows["good"].verdict) == (pytest.approx(1.45), "better")


def _ranks(*ranks: int) -> dict[str, StoredItems]:
    return {TASK: StoredItems(outcomes=np.array(ranks), groups=np.arange(4), texts=FOUR)}


def test_find_examples__by_the_ratio_of_median_ranks_over_common_seeds() -> None:
    runs = {
        "base": {0: _ranks(9, 0, 50, 3), 1: _ranks(9, 0, 52, 3)},
        # Seed 2 has no partner.
        "other": {0: _ranks(0, 3, 50, 3), 1: _ranks(2, 5, 52, 3), 2: _ranks(99, 99, 99, 99)},
    }
    assert find_examples(runs, [METRIC]) == [
        Example(metric=METRIC, variant="other", text="가", reference_rank=10.0, rank=2.0),
        Example(metric=METRIC, variant="other", text="나", reference_rank=1.0, rank=5.0),
    ]


def test_find_examples__at_most_count_per_sign_in_stable_order() -> None:
    runs = {"base": {0: _ranks(9, 9, 0, 0)}, "other": {0: _ranks(0, 0, 9, 9)}}
    found = find_examples(runs, [METRIC], count=1)
    assert [(one.text, one.is_better) for one in found] == [("가", True), ("다", False)]


def test_find_examples__no_ranks_no_examples() -> None:
    values = {"eval/a/matched_minus_random": StoredItems(outcomes=np.zeros(4), groups=np.arange(4), texts=FOUR)}
    runs = {"base": {0: values}, "other": {0: values}, "later": {}}
    assert find_examples(runs, ["eval/a/matched_minus_random"]) == []
