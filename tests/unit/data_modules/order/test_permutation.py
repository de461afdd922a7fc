"""Permutations are bijections, keep to their windows, and interleaving is even."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.order.permutation import permute, permute_in_windows, proportional_counts


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


@given(size=st.integers(1, 400), window=st.integers(1, 500), run_length=st.integers(1, 50), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_permute_in_windows__is_a_bijection(size: int, window: int, run_length: int, seed: int) -> None:
    image = permute_in_windows(np.arange(size), size, (seed,), window=window, run_length=run_length)
    assert sorted(image.tolist()) == list(range(size))


def test_permute_in_windows__a_window_reads_few_runs_and_the_epoch_all_in_random_order() -> None:
    size, window, run_length = 100_000, 2000, 50
    image = permute_in_windows(np.arange(size), size, (1, 2), window=window, run_length=run_length)
    runs = image.reshape(-1, window) // run_length
    assert {len(np.unique(one)) for one in runs} == {window // run_length}, "whole runs, each in one window"
    assert abs(np.corrcoef(np.arange(len(runs)), runs.mean(axis=1))[0, 1]) < 0.5
    inside = np.argsort(image[:window])
    assert abs(np.corrcoef(np.arange(window), inside)[0, 1]) < 0.1, "mixed within the window"


@given(draws=st.lists(st.integers(1, 50), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_proportional_counts__sums_rises_and_stays_near_the_ideal(draws: list[int]) -> None:
    sizes = np.array(draws)
    counts = np.array([proportional_counts(sizes, number) for number in range(sizes.sum() + 1)])
    assert counts.sum(axis=1).tolist() == list(range(sizes.sum() + 1))
    assert (np.diff(counts, axis=0) >= 0).all()
    ideal = np.arange(sizes.sum() + 1)[:, None] * sizes / sizes.sum()
    assert np.abs(counts - ideal).max() <= len(draws) + 1
