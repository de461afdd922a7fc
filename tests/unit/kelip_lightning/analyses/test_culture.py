"""Word pairs whose images are known: alike, different, and words that the model does not know."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.benchmarks.word_pairs import WordPair
from data_modules.errors import DataError
from kelip_lightning.analyses.culture import (
    ALL_TOPICS,
    CONTROLS,
    KNOWN,
    check_enough,
    choice_findings,
    compare_words,
    is_known,
)
from kelip_lightning.statistics.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(num_resamples=200)
WIDTH, NUM_CONTROLS = 32, 40
ALIKE, DIFFERENT, UNKNOWN = 0, 1, 2


def randn(number: int, seed: int) -> Tensor:
    return torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def world() -> tuple[list[WordPair], dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Every concept has an image; Korean words lie at their image, but for one offset, English ones too.

    Of three pairs that are tested, one is like the control pairs, one names different images in the two languages,
    and one lies far from all images.
    """
    concepts = F.normalize(randn(60, 0), dim=-1)
    shown = torch.arange(3 + NUM_CONTROLS)
    ko, en = concepts[shown].clone(), concepts[shown].clone()
    en[DIFFERENT] = concepts[50]
    ko[UNKNOWN], en[UNKNOWN] = 0.3 * F.normalize(randn(2, 1), dim=-1)
    offset = 0.2 * F.normalize(randn(1, 2), dim=-1)
    words = {"ko": ko + offset + 0.01 * randn(len(ko), 3), "en": en + 0.01 * randn(len(en), 4)}
    nonsense = {"ko": 0.5 * F.normalize(randn(100, 5), dim=-1), "en": 0.5 * F.normalize(randn(100, 6), dim=-1)}
    tested = [WordPair(ko=f"가{i}", en=f"a{i}", topic="food" if i else "body") for i in range(3)]
    controls = [WordPair(ko=f"나{i}", en=f"b{i}", topic="sky", control=True) for i in range(NUM_CONTROLS)]
    return [*tested, *controls], words, nonsense, concepts


def test_compare_words__says_which_pairs_differ(
    world: tuple[list[WordPair], dict[str, Tensor], dict[str, Tensor], Tensor],
) -> None:
    found, images = compare_words(*world, BOOTSTRAP, top=3, num_draws=1999)
    verdicts = [item["verdict"] for item in found.items]
    assert verdicts[ALIKE] == "no difference beyond the language gap"
    assert verdicts[DIFFERENT] == "differs"
    assert verdicts[UNKNOWN] == "a word is not known"
    assert set(verdicts[3:]) == {"control pair"}
    assert [item["differs"] for item in found.items[:3]] == [False, True, False]
    assert [item["beyond_gap"] for item in found.items[:3]] == [False, True, True]
    assert found.items[5]["p_holm"] is None
    assert images.ko[ALIKE, 0] == images.en[ALIKE, 0] == ALIKE
    assert (images.ko[DIFFERENT, 0], images.en[DIFFERENT, 0]) == (DIFFERENT, 50)
    assert "가1/a1" in found.statements[1]


def test_compare_words__means_by_topic_leave_control_pairs_out(
    world: tuple[list[WordPair], dict[str, Tensor], dict[str, Tensor], Tensor],
) -> None:
    found, _ = compare_words(*world, BOOTSTRAP, top=3, num_draws=999)
    metrics = {(one.subject, one.measure): one for one in found.summary}
    counts = {subject: one.count for (subject, measure), one in metrics.items() if measure == "overlap_top3"}
    assert counts == {
        ALL_TOPICS: 3,
        CONTROLS: NUM_CONTROLS,
        KNOWN: 2,
        "body": 1,
        "food": 2,
        "all pairs − control pairs": 3 + NUM_CONTROLS,
    }
    overlaps = [item["overlap_top3"] for item in found.items[:3]]
    assert metrics[ALL_TOPICS, "known"].interval.value == pytest.approx(2 / 3)
    assert metrics[ALL_TOPICS, "overlap_top3"].interval.value == pytest.approx(np.mean(np.array(overlaps, float)))


def test_is_known__five_percent_of_nonsense_may_score_higher() -> None:
    gallery = torch.tensor([[1.0, 0.0]])
    nonsense = torch.tensor([[score, 0.0] for score in np.linspace(0.01, 1.0, 100)], dtype=torch.float32)
    words = torch.tensor([[0.955, 0.0], [0.945, 0.0]])
    assert is_known(words, nonsense, gallery).tolist() == [True, False]


def test_check_enough__too_few_controls_or_images() -> None:
    pairs = [WordPair(ko=str(i), en=str(i), topic="t", control=i < 20) for i in range(30)]
    with pytest.raises(DataError, match="20 control pairs of 30; the test needs at least 21"):
        check_enough(pairs, 100, 10)
    pairs[20:] = [WordPair(ko="가", en="a", topic="t", control=True)]
    with pytest.raises(DataError, match="a pair to test"):
        check_enough(pairs, 100, 10)
    pairs.append(WordPair(ko="나", en="b", topic="t"))
    with pytest.raises(DataError, match="lower top"):
        check_enough(pairs, 9, 10)


def test_compare_words__a_collapsed_model_has_no_order_of_images(
    world: tuple[list[WordPair], dict[str, Tensor], dict[str, Tensor], Tensor],
) -> None:
    pairs, words, nonsense, gallery = world
    same = gallery[:1].expand(len(gallery), -1)
    found, _ = compare_words(pairs, words, nonsense, same, Bootstrap(num_resamples=100), top=3, num_draws=999)
    assert {item["rank_correlation"] for item in found.items} == {0.0}
    assert not any(item["differs"] for item in found.items)


def test_choice_findings__accuracy_chance_and_items() -> None:
    images = torch.eye(4)
    # Right, right, wrong, right; the numbers of options differ.
    options = torch.cat([images[[0, 1, 2, 3]], images[[0, 1]], images[[2, 3]], images[[1, 3]]])
    found = choice_findings("quiz", images, options, [4, 2, 2, 2], [0, 1, 1, 1], BOOTSTRAP)
    (metric,) = found.summary
    assert metric.interval.value == 0.75
    assert metric.chance == pytest.approx((1 / 4 + 3 / 2) / 4)
    assert [item["right"] for item in found.items] == [True, True, False, True]
    assert [item["chosen"] for item in found.items] == [0, 1, 0, 1]
    assert "does not measurably beat guessing" in found.statements[0]


def test_choice_findings__a_right_model_beats_guessing_and_a_collapsed_one_gets_nothing() -> None:
    images = F.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    options = torch.stack([images, images.flip(0)], dim=1).flatten(0, 1)
    right = choice_findings("quiz", images, options, [2] * 50, [0] * 50, BOOTSTRAP)
    assert right.summary[0].interval.value == 1.0
    assert "beats guessing" in right.statements[0]
    collapsed = choice_findings("quiz", images, torch.ones(100, 16), [2] * 50, [0] * 50, BOOTSTRAP)
    assert collapsed.summary[0].interval.value == 0.0


def test_choice_findings__numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        choice_findings("quiz", torch.eye(2), torch.eye(3), [2, 2], [0, 0], BOOTSTRAP)
