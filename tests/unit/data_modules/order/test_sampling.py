"""The order of samples: exact counts, and the same global batch for any number of ranks."""

from collections import Counter

import numpy as np
import pytest

from data_modules.errors import DataError
from data_modules.order import sampling
from data_modules.order.sampling import BatchOrder, RankBatchSampler


def _order(lengths: tuple[int, ...] = (7, 20), weights: tuple[float, ...] = (1.0, 1.0), batch: int = 8) -> BatchOrder:
    return BatchOrder(lengths=lengths, weights=weights, global_batch_size=batch, seed=3)


def _ids(order: BatchOrder, num_samples: int) -> list[int]:
    """The first `num_samples` ids of the run."""
    steps = -(-num_samples // order.global_batch_size)
    return np.concatenate([order.batch(step) for step in range(steps)])[:num_samples].tolist()


def _sampler(order: BatchOrder, *, start: int = 0, rank: int = 0, world: int = 1):
    return RankBatchSampler(order, start_step=start, max_steps=5, rank=rank, world_size=world)


def test_batch__weights_give_exact_counts() -> None:
    order = _order(lengths=(10, 20), weights=(2.0, 0.2))
    assert order.draws_per_source.tolist() == [20, 4]
    assert order.epoch_length == 24
    ids = _ids(order, 5 * 24)
    for epoch in range(5):
        one_epoch = ids[epoch * 24 : (epoch + 1) * 24]
        assert Counter(one_epoch)[3] == 2
        assert sum(i >= 10 for i in one_epoch) == 4
    counts = Counter(ids)
    assert [counts[i] for i in range(10)] == [10] * 10, "twice in each of five epochs"
    assert [counts[i] for i in range(10, 30)] == [1] * 20, "once in five epochs"


def test_batch__weight_that_does_not_divide_stays_even_over_passes() -> None:
    order = _order(lengths=(7,), weights=(0.4,), batch=3)
    assert order.epoch_length == 3
    counts = Counter(_ids(order, 21))
    assert set(counts.values()) == {3}, "seven epochs of three draws are three passes over seven samples"


def test_batch__tiny_weight_still_draws_one() -> None:
    assert _order(lengths=(5, 50), weights=(0.01, 1.0)).draws_per_source.tolist() == [1, 50]


def test_batch__is_a_pure_function_of_seed_and_step() -> None:
    order = _order()
    later = order.batch(9).tolist()
    order.batch(2)
    assert order.batch(9).tolist() == later
    assert _order().batch(9).tolist() == later
    other_seed = BatchOrder(lengths=(7, 20), weights=(1.0, 1.0), global_batch_size=8, seed=4)
    assert other_seed.batch(9).tolist() != later


def test_batch__another_batch_size_gives_the_same_sequence() -> None:
    assert _ids(_order(batch=8), 100) == _ids(_order(batch=5), 100)


@pytest.mark.parametrize("lengths", [(), (0, 4)])
def test_batch_order__empty_source(lengths: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="at least one sample"):
        _order(lengths=lengths, weights=(1.0,) * len(lengths))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_rank_batch_sampler__ranks_share_the_global_batch_in_contiguous_parts(world: int) -> None:
    order = _order(batch=16)
    served = [list(_sampler(order, rank=rank, world=world)) for rank in range(world)]
    assert all(len(batches) == 5 for batches in served)
    for step in range(5):
        parts = [[draw.sample_id for draw in served[rank][step]] for rank in range(world)]
        assert [sample_id for part in parts for sample_id in part] == order.batch(step).tolist()
        assert {len(part) for part in parts} == {16 // world}
        assert {draw.step for rank in range(world) for draw in served[rank][step]} == {step}


def test_rank_batch_sampler__resumes_at_the_tail() -> None:
    whole = list(_sampler(_order()))
    resumed = _sampler(_order(), start=3)
    assert list(resumed) == whole[3:]
    assert len(resumed) == 5, "Lightning counts from the beginning of the run"


def test_rank_batch_sampler__indivisible_batch() -> None:
    with pytest.raises(DataError, match=r"global_batch_size = 8 .* number of ranks = 3"):
        _sampler(_order(), world=3)


@pytest.mark.parametrize("window", [0, 10])
def test_batches__are_the_batches_of_the_steps(window: int) -> None:
    order = BatchOrder(lengths=(7, 20), weights=(0.4, 2.0), global_batch_size=8, seed=3, shuffle_window=window)
    together = order.batches(2, 40)
    assert together.tolist() == [order.batch(step).tolist() for step in range(2, 40)]


def test_rank_batch_sampler__serves_more_than_it_computes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(_sampler(_order(), start=1))
    monkeypatch.setattr(sampling, "_IDS_AT_A_TIME", 2 * 8)
    assert list(_sampler(_order(), start=1)) == whole
    monkeypatch.setattr(sampling, "_IDS_AT_A_TIME", 1)
    assert list(_sampler(_order(), start=1)) == whole
