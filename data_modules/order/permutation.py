"""Random permutations and even interleaving without an array as long as what they order.

The permutation is a Feistel network over the next power of four with cycle walking (Black & Rogaway 2002,
"Ciphers with arbitrary finite domains").
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _round_keys(key: Sequence[int]) -> list[np.uint64]:
    return list(np.random.SeedSequence(list(key)).generate_state(_ROUNDS, np.uint64))


def permute(positions: Ids, size: int, key: Sequence[int]) -> Ids:
    """Where a keyed random permutation of `range(size)` sends each position.

    Args:
        positions: int64 (N,), each in [0, size).
        size: Length of the permuted range, >= 1.
        key: Non-negative integers that choose the permutation.

    Returns:
        int64 (N,), each in [0, size); a bijection over the whole range.
    """
    half_bits = max(1, (int(size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    keys = _round_keys(key)

    def encrypt(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> shift, values & mask
        with np.errstate(over="ignore"):
            for round_key in keys:
                left, right = right, left ^ (_mix((right + round_key) * _GOLDEN) & mask)
        return (left << shift) | right

    walked = encrypt(positions.astype(np.uint64))
    while (outside := walked >= size).any():
        walked[outside] = encrypt(walked[outside])
    return walked.astype(np.int64)


def permute_in_windows(positions: Ids, size: int, key: Sequence[int], *, window: int, run_length: int) -> Ids:
    """Like `permute`, but neighbours stay near one another: runs are shuffled, then mixed over a window of runs.

    `range(size)` is cut into runs; the runs are permuted; positions are permuted inside windows of whole runs. So the
    samples of one window come from window / run_length places, and are read there in runs. The last run may be
    shorter: what falls behind it walks on, as in `permute`.

    Args:
        positions: int64 (N,), each in [0, size).
        size: Length of the permuted range, >= 1.
        key: Non-negative integers that choose the permutation.
        window: Positions over which samples mix, >= 1; rounded up to whole runs.
        run_length: Neighbours that stay together in the order of runs, >= 1.

    Returns:
        int64 (N,), each in [0, size); a bijection over the whole range.
    """
    runs_per_window = -(-window // run_length)
    num_runs = -(-size // run_length)
    if runs_per_window >= num_runs:
        return permute(positions, size, key)
    width = runs_per_window * run_length

    def send(values: Ids) -> Ids:
        windows, mixed = values // width, np.empty_like(values)
        for number in np.unique(windows):
            here = windows == number
            there = min(width, num_runs * run_length - int(number) * width)
            mixed[here] = number * width + permute(values[here] - number * width, there, (*key, 1, int(number)))
        return permute(mixed // run_length, num_runs, (*key, 2)) * run_length + mixed % run_length

    walked = send(positions)
    while (outside := walked >= size).any():
        walked[outside] = send(walked[outside])
    return walked


def proportional_counts(draws: Ids, number: int) -> Ids:
    """How many of the first `number` draws of an epoch fall to each source, int64 (S,), summing to `number`.

    Each source's draws are spread evenly over the epoch: draw j of n stands at time (j + offset) / n, and the counts
    are those up to the time at which `number` draws have been made. Exact integers; rises with `number` in every place.
    """
    if number == 0 or number == draws.sum():
        return draws if number else np.zeros_like(draws)
    sizes = [int(n) for n in draws]
    offsets = [(i + 1) * (1 << 64) // (len(sizes) + 1) for i in range(len(sizes))]

    def until(time: int) -> list[int]:
        return [(time * n + offset) >> 64 for n, offset in zip(sizes, offsets, strict=True)]

    low, high = 0, 1 << 64
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if sum(until(middle)) >= number else (middle, high)
    counts, excess = until(high), sum(until(high)) - number
    for i, (now, before) in enumerate(zip(list(counts), until(low), strict=True)):
        taken_back = min(excess, now - before)
        counts[i], excess = now - taken_back, excess - taken_back
    return np.array(counts, dtype=np.int64)
