"""The order of samples: bijections, exact counts, and the same global batch however it is cut."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.errors import DataError
from data_modules.sampling import BatchOrder, Draw, RankBatchSampler, permute


def _order(lengths: tuple[int, ...] = (7, 20), weights: tuple[float, ...] = (1.0, 1.0), batch: int = 8) -> BatchOrder:
    return BatchOrder(lengths=lengths, weights=weights, global_batch_size=batch, seed=3)


def _ids(order: BatchOrder, num_samples: int) -> list[int]:
    """The first `num_samples` ids of the run."""
    steps = -(-num_samples // order.global_batch_size)
    return np.concatenate([order.batch(step) for step in range(steps)])[:num_samples].tolist()


def _sampler(order: BatchOrder, *, start: int = 0, rank: int = 0, world: int = 1, accumulate: int = 1):
    return RankBatchSampler(order, start_step=start, max_steps=5, rank=rank, world_size=world, accumulate=accumulate)


@given(size=st.integers(1, 300), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_permute__is_a_bijection(size: int, seed: int, epoch: int) -> None:
    image = permute(np.arange(size), size, (seed, epoch))
    assert image.dtype == np.int64
    assert sorted(image.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 4095, 4097])
def test_permute__is_a_bijection_around_powers_of_two(size: int) -> None:
    assert sorted(permute(np.arange(size), size, (0,)).tolist()) == list(range(size))


def test_permute__large_range_stays_inside_and_distinct() -> None:
    size = 3_000_000_019
    image = permute(np.arange(0, size, size // 20_000), size, (1, 2))
    assert image.min() >= 0
    assert image.max() < size
    assert len(np.unique(image)) == len(image)


def test_permute__does_not_depend_on_which_positions_are_asked() -> None:
    whole = permute(np.arange(1000), 1000, (4, 5))
    some = np.array([999, 0, 17, 17])
    assert permute(some, 1000, (4, 5)).tolist() == whole[some].tolist()


def test_permute__neighbours_part_and_keys_differ() -> None:
    image = permute(np.arange(10_000), 10_000, (0, 0))
    assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.03
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.03
    assert (permute(np.arange(10_000), 10_000, (0, 1)) == image).mean() < 0.01


def test_permute__first_place_is_uniform_over_keys() -> None:
    places = Counter(int(permute(np.array([0]), 10, (seed,))[0]) for seed in range(1000))
    chi_square = sum((places[place] - 100) ** 2 / 100 for place in range(10))
    assert chi_square < 27.9, "p = 0.001 at nine degrees of freedom"


@pytest.mark.parametrize("batch", [1, 8, 27, 40])
def test_batch__weight_one_gives_each_id_once_an_epoch(batch: int) -> None:
    order = _order(batch=batch)
    ids = _ids(order, 4 * 27)
    for epoch in range(4):
        assert sorted(ids[epoch * 27 : (epoch + 1) * 27]) == list(range(27))


def test_batch__two_epochs_differ() -> None:
    ids = _ids(_order(), 2 * 27)
    assert ids[:27] != ids[27:]


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


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_rank_batch_sampler__ranks_and_accumulation_share_the_global_batch(world: int, accumulate: int) -> None:
    order = _order(batch=16)
    served = [list(_sampler(order, rank=rank, world=world, accumulate=accumulate)) for rank in range(world)]
    assert all(len(batches) == 5 * accumulate for batches in served)
    for step in range(5):
        pieces = [
            [draw.sample_id for draw in served[rank][step * accumulate + turn]]
            for turn in range(accumulate)
            for rank in range(world)
        ]
        assert [sample_id for piece in pieces for sample_id in piece] == order.batch(step).tolist()
        assert {len(piece) for piece in pieces} == {16 // world // accumulate}
        assert {draw.step for rank in range(world) for draw in served[rank][step * accumulate]} == {step}


def test_rank_batch_sampler__resumes_at_the_tail() -> None:
    whole = list(_sampler(_order(), accumulate=2))
    resumed = _sampler(_order(), start=3, accumulate=2)
    assert list(resumed) == whole[6:]
    assert len(resumed) == 10, "Lightning counts from the beginning of the run"


def test_rank_batch_sampler__indivisible_batch() -> None:
    with pytest.raises(DataError, match=r"global_batch_size = 8 .* 3 x 1"):
        _sampler(_order(), world=3)


def test_draw__stream_depends_on_seed_step_and_sample() -> None:
    first = Draw(1, 2).generator(0).random(4).tolist()
    assert Draw(1, 2).generator(0).random(4).tolist() == first
    streams = [Draw(*ids).generator(seed).random(4).tolist() for ids, seed in (((2, 2), 0), ((1, 3), 0), ((1, 2), 1))]
    assert first not in streams
    assert Draw(2, 1).generator(0).random(4).tolist() != first


def test_draw__model_seed_depends_on_seed_step_and_sample_alone() -> None:
    draws = [Draw(step, sample_id) for step in range(20) for sample_id in range(20)]
    seeds = [draw.model_seed(seed) for draw in draws for seed in (0, 1)]
    assert len(set(seeds)) == 800
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63
    assert seeds == [draw.model_seed(seed) for draw in draws for seed in (0, 1)]
