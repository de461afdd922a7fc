"""Streams of a batch against numpy's `SeedSequence`, one sample at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.order.sampling import Draw
from data_modules.order.streams import model_seeds, sample_generators, seed_states

WORDS = (0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**62 + 3)
"""Around the limits of one and two words."""


def _sequence(seed: int, stream: int, draw: Draw) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, stream, draw.step, draw.sample_id])


@pytest.mark.parametrize("num_words", [1, 2, 3, 7])
def test_seed_states__are_those_of_numpy_for_thousands_of_keys(num_words: int) -> None:
    rng = np.random.default_rng(0)
    draws = [Draw(int(step), int(rng.integers(0, 1 << int(bits)))) for step, bits in rng.integers(1, 63, (2000, 2))]
    draws += [Draw(step, sample_id) for step in WORDS for sample_id in WORDS]
    for seed in (0, 5, 2**32 - 1, 2**32, 2**70 + 9, 2**200):
        expected = [_sequence(seed, 9, draw).generate_state(num_words, np.uint64) for draw in draws]
        assert np.array_equal(seed_states(seed, 9, draws, num_words), expected)


@given(st.integers(0, 2**130), st.lists(st.tuples(st.integers(0, 2**70), st.integers(0, 2**70)), max_size=5))
@settings(max_examples=100, deadline=None)
def test_seed_states__any_integers(seed: int, pairs: list[tuple[int, int]]) -> None:
    draws = [Draw(*pair) for pair in pairs]
    expected = [_sequence(seed, 2, draw).generate_state(2, np.uint64) for draw in draws]
    assert seed_states(seed, 2, draws, 2).tolist() == [one.tolist() for one in expected]


def test_sample_generators__give_what_the_stream_of_each_sample_gives() -> None:
    draws = [Draw(step, sample_id) for step in (0, 3) for sample_id in WORDS]
    for draw, found in zip(draws, sample_generators(4, draws), strict=True):
        expected = np.random.Generator(np.random.Philox(_sequence(4, 2, draw)))
        assert found.integers(0, 256, size=3).tolist() == expected.integers(0, 256, size=3).tolist()
        assert found.random(5).tolist() == expected.random(5).tolist()
        assert found.permutation(9).tolist() == expected.permutation(9).tolist()
        assert found.random(7, dtype=np.float32).tolist() == expected.random(7, dtype=np.float32).tolist()


def test_sample_generators__spawn_the_streams_that_numpy_spawns() -> None:
    (found,), draw = sample_generators(4, [Draw(1, 2)]), Draw(1, 2)
    expected = np.random.Generator(np.random.Philox(_sequence(4, 2, draw)))
    for _ in range(2):  # a second spawn gives further streams
        for one, other in zip(found.spawn(2), expected.spawn(2), strict=True):
            assert one.random(3).tolist() == other.random(3).tolist()


def test_sample_generators__the_seed_serves_other_generators_too() -> None:
    (found,) = sample_generators(4, [Draw(1, 2)])
    seeds = found.bit_generator.seed_seq
    expected = np.random.PCG64(_sequence(4, 2, Draw(1, 2)))
    assert np.random.PCG64(seeds).random_raw(3).tolist() == expected.random_raw(3).tolist()


def test_model_seeds__are_half_the_first_word_of_a_sequence_of_their_own() -> None:
    draws = [Draw(step, sample_id) for step in range(20) for sample_id in (*range(20), *WORDS)]
    seeds = model_seeds(1, draws)
    assert seeds.dtype == np.int64
    expected = [int(_sequence(1, 3, draw).generate_state(1, np.uint64)[0]) >> 1 for draw in draws]
    assert seeds.tolist() == expected


def test_streams__depend_on_seed_step_and_sample_and_not_on_the_language() -> None:
    draws = [Draw(1, 2), Draw(2, 2), Draw(1, 3), Draw(2, 1), Draw(1, 2, "ko")]
    first = [one.random(4).tolist() for one in sample_generators(0, draws)]
    assert first[4] == first[0]
    others = [*first[1:4], sample_generators(1, draws[:1])[0].random(4).tolist()]
    assert first[0] not in others
    assert len(set(model_seeds(0, draws).tolist())) == 4


def test_streams__of_no_draws() -> None:
    assert sample_generators(0, []) == []
    assert model_seeds(0, []).shape == (0,)
