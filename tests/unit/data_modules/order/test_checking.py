"""Batches that repeat pairs, and runs that end within their first epoch."""

from typing import Any

import numpy as np
import pytest

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.order.checking import check_batches, repeated_share
from data_modules.order.mixture import build_order
from data_modules.order.sampling import BatchOrder
from data_modules.sources.config import SourceConfig
from tests.unit.data_modules.corpora import FakeSource


def check(pairs: int, batch: int, steps: int, weight: float = 1.0, **settings: Any) -> None:
    source = SourceConfig(files=["a.tar"], caption_fields=["txt"], weight=weight)
    config = ImageTextDataConfig(sources={"s": source}, global_batch_size=batch, **settings)
    order = build_order([FakeSource("s", ["ko"] * pairs)], {"s": source}, batch, 0, config.order)
    check_batches(config, order, steps, "contrastive.")


def test_check_batches__a_batch_above_the_data_is_refused_unless_allowed() -> None:
    with pytest.raises(
        DataError, match=r"^contrastive\.data\.global_batch_size = 64 is more than the 60 pairs"
    ) as error:
        check(60, 64, 100)
    assert "\n" not in str(error.value)
    assert "contrastive.data.allow_repeats: true" in str(error.value)
    check(60, 64, 100, allow_repeats=True)
    check(64, 64, 100)


def test_check_batches__the_same_pair_twice_in_a_batch_is_refused_unless_allowed() -> None:
    with pytest.raises(DataError, match=r"% of the pairs of a batch of .*global_batch_size = 40 are in it twice"):
        check(60, 40, 100)
    with pytest.raises(DataError, match="are in it twice"):
        check(1000, 200, 100, weight=3.0)
    check(1000, 200, 100, weight=3.0, allow_repeats=True)
    check(10_000, 100, 1000)  # a few where batches run across the end of an epoch


def test_check_batches__less_than_an_epoch_is_refused_unless_allowed() -> None:
    with pytest.raises(DataError, match=r"max_steps = 9 steps of 10 see 90 of the 100 pairs .* at least 10 steps, or"):
        check(100, 10, 9)
    check(100, 10, 9, allow_partial_epoch=True)
    check(100, 10, 10)


@pytest.mark.parametrize("window", [0, 128])
@pytest.mark.parametrize("steps", [20, 500])
def test_repeated_share__is_that_of_all_batches_counted_one_by_one(window: int, steps: int) -> None:
    source = SourceConfig(files=["a.tar"], caption_fields=["txt"], weight=2.0)
    order = build_order(
        [FakeSource("s", ["ko"] * 90)], {"s": source}, 30, 3, OrderConfig(shuffle_window=window, run_length=4)
    )
    looked_at = max(steps, 32 * 6)  # an epoch is 180 draws, 6 batches
    repeats = [30 - len(set(order.batch(step).tolist())) for step in range(looked_at)]
    assert np.isclose(repeated_share(order, steps), sum(repeats) / (30 * looked_at))


def test_repeated_share__of_a_short_run_does_not_depend_on_chance() -> None:
    """Two epochs, in which one pair twice would be more than 1 %: expected are B / (6 N) in B / N of the batches."""
    shares = [repeated_share(BatchOrder((83,), (1.0,), 8, seed=seed), 20) for seed in range(20)]
    expected = 8 / 83 * 8 / (6 * 83)
    assert max(shares) < 0.01
    assert np.isclose(np.mean(shares), expected, rtol=0.5)
