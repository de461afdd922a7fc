"""Shares of sources and languages against exact counts."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from data_modules.config import OrderConfig
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.order.mixture import SingleLanguageOrder, build_order
from data_modules.order.sampling import BatchOrder, Order
from data_modules.sources.config import SourceConfig
from tests.unit.data_modules.corpora import FakeSource

MIXED, KOREAN = FakeSource("mixed", ["ko", "en", "en", "en"] * 10), FakeSource("korean", ["ko"] * 20)
"""10 Korean and 30 English pairs with the ids 0-39, 20 Korean ones with 40-59."""
IDS = {
    ("mixed", "ko"): set(range(0, 40, 4)),
    ("mixed", "en"): set(range(40)) - set(range(0, 40, 4)),
    ("korean", "ko"): set(range(40, 60)),
}


def _order(batch: int = 6, weights: tuple[float, float] = (1.0, 1.0), **options: Any) -> Order:
    configs = {
        name: SourceConfig(files=["x"], caption_fields=["txt"], weight=weight)
        for name, weight in zip(("mixed", "korean"), weights, strict=True)
    }
    return build_order([MIXED, KOREAN], configs, batch, 5, OrderConfig(**options))


def _counts(order: Order, number: int) -> Counter[tuple[str, str]]:
    steps = number // order.global_batch_size
    ids = np.concatenate([order.batch(step) for step in range(steps)])[:number]
    return Counter(place for one in ids.tolist() for place, those in IDS.items() if one in those)


@pytest.mark.parametrize("window", [0, 16])
def test_build_order__languages_apart_keep_exact_epochs(window: int) -> None:
    order = _order(language_weights={"ko": 1.0, "en": 1.0}, shuffle_window=window, run_length=4)
    ids = np.concatenate([order.batch(step) for step in range(10)])
    assert sorted(ids.tolist()) == list(range(60))


@pytest.mark.parametrize("window", [0, 16])
def test_build_order__language_weights_times_source_weights(window: int) -> None:
    order = _order(weights=(1.0, 0.5), language_weights={"ko": 2.0}, shuffle_window=window)
    assert order.epoch_length == 20 + 30 + 20
    assert _counts(order, 70 * 6 // 6 * 6) == {("mixed", "ko"): 120, ("mixed", "en"): 180, ("korean", "ko"): 120}


def test_build_order__temperature_flattens_shares_and_keeps_the_length() -> None:
    order = _order(temperature=2.0)
    roots = np.sqrt([10, 30, 20])
    expected = np.round(roots / roots.sum() * 60)
    assert order.epoch_length == expected.sum()
    counts = _counts(order, 6 * int(expected.sum()))
    found = [counts["mixed", "ko"], counts["mixed", "en"], counts["korean", "ko"]]
    assert found == (6 * np.array([expected[0], expected[1], expected[2]])).tolist()


def test_build_order__temperature_one_is_natural() -> None:
    assert _order().batch(3).tolist() == _order(temperature=1.0).batch(3).tolist()
    assert _counts(_order(), 60) == {("mixed", "ko"): 10, ("mixed", "en"): 30, ("korean", "ko"): 20}


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({"temperature": 2.0}, "c8bb7d2dc09daf43"),
        ({"language_weights": {"ko": 2.0, "en": 0.5}}, "16429f1ccd96e24b"),
        ({"single_language_batches": True}, "b55094d3d82d6ac6"),
        ({"single_language_batches": True, "shuffle_window": 4096, "run_length": 16}, "30718423be2ec146"),
    ],
)
def test_build_order__is_that_of_earlier_revisions(options: dict[str, Any], digest: str) -> None:
    """Digests of revision e16296c, so that a run resumes in the same order."""
    rng, names = np.random.default_rng(0), (*LANGUAGES, "unknown")
    web = rng.choice(3, p=[0.3, 0.6, 0.1], size=100_003)
    runs = np.repeat(rng.integers(0, 3, size=40), [1, 2, 3, 5, 511, 512, 513, 1000, 70, 900] * 4)
    sources = [FakeSource("web", [names[mark] for mark in web]), FakeSource("runs", [names[mark] for mark in runs])]
    configs = {
        "web": SourceConfig(files=["x"], caption_fields=["txt"]),
        "runs": SourceConfig(files=["x"], caption_fields=["txt"], weight=1.5),
    }
    order = build_order(sources, configs, 512, 7, OrderConfig(**options))
    ids = np.concatenate([order.batch(step) for step in (0, 1, 2, 3, 50, 197, 1000)])
    assert hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest().startswith(digest)


def test_single_language_batches__take_turns_and_keep_each_epoch_exact() -> None:
    order = _order(batch=5, single_language_batches=True)
    assert isinstance(order, SingleLanguageOrder)
    batches = {"ko": [], "en": []}
    for step in range(48):
        ids = order.batch(step).tolist()
        language = order.language(step)
        assert language is not None
        allowed = IDS["mixed", "en"] if language == "en" else IDS["mixed", "ko"] | IDS["korean", "ko"]
        assert set(ids) <= allowed
        batches[language].append(ids)
    assert (len(batches["ko"]), len(batches["en"])) == (24, 24), "30 of 60 pairs each"
    for found in batches.values():
        for epoch in range(4):
            assert len({one for ids in found[6 * epoch : 6 * epoch + 6] for one in ids}) == 30


def test_single_language_batches__together_are_those_of_the_steps() -> None:
    order = _order(batch=4, weights=(1.0, 0.5), single_language_batches=True)
    assert order.batches(3, 60).tolist() == [order.batch(step).tolist() for step in range(3, 60)]
    assert order.batches(5, 5).shape == (0, 4)


def test_single_language_batches__turns_follow_the_sizes_evenly() -> None:
    order = _order(batch=4, weights=(1.0, 0.5), single_language_batches=True)
    turns = [order.language(step) == "ko" for step in range(500)]
    ideal = np.arange(1, 501) * 20 / 50
    assert np.abs(np.cumsum(turns) - ideal).max() <= 1


def test_build_order__a_language_without_pairs() -> None:
    configs = {"korean": SourceConfig(files=["x"], caption_fields=["txt"])}
    with pytest.raises(DataError, match="asks for pairs in 'en'"):
        build_order([KOREAN], configs, 4, 0, OrderConfig(single_language_batches=True))


def test_build_order__weights_go_by_name() -> None:
    weights = {"korean": 0.5, "mixed": 2.0}
    configs = {name: SourceConfig(files=["x"], captions={"ko": "x"}, weight=one) for name, one in weights.items()}
    order = build_order([MIXED, KOREAN], configs, 4, 7)
    assert isinstance(order, BatchOrder)
    assert (order.lengths, order.weights) == ((40, 20), (2.0, 0.5))
