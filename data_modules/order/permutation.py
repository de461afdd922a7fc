"""Random permutations and even interleaving in O(1) memory per position, for ranges of any length.

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


def permute(positions: Ids, size: int, key: Sequence[int]) -> Ids:
    """Images of positions under a keyed random permutation of `range(size)`.

    Args:
        positions: int64 (N,), each in [0, size).
        size: Length of the permuted range, >= 1.
        key: Non-negative integers that choose the permutation.

    Returns:
        int64 (N,), each in [0, size); a bijection over the whole range.
    """
    half_bits = max(1, (int(size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    round_keys = np.random.SeedSequence(list(key)).generate_state(_ROUNDS, np.uint64)

    def encrypt(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> shift, values & mask
        with np.errstate(over="ignore"):
            for round_key in round_keys:
                left, right = right, left ^ (_mix((right + round_key) * _GOLDEN) & mask)
        return (left << shift) | right

    image = encrypt(positions.astype(np.uint64))
    while (outside := image >= size).any():
        image[outside] = encrypt(image[outside])
    return image.astype(np.int64)


def permute_in_windows(positions: Ids, size: int, key: Sequence[int], *, window: int, run_length: int) -> Ids:
    """Like `permute`, but local: runs of neighbours are permuted, then samples within windows of whole runs.

    A window of W positions reads from W / run_length places, run_length neighbours at each. The last run may be
    shorter; values outside the range are mapped again, as in `permute`.

    Args:
        positions: int64 (N,), each in [0, size).
        size: Length of the permuted range, >= 1.
        key: Non-negative integers that choose the permutation.
        window: Positions that are permuted together, >= 1; rounded up to whole runs.
        run_length: Neighbours that form a run, >= 1.

    Returns:
        int64 (N,), each in [0, size); a bijection over the whole range.
    """
    runs_per_window = -(-window // run_length)
    num_runs = -(-size // run_length)
    if runs_per_window >= num_runs:
        return permute(positions, size, key)
    width = runs_per_window * run_length

    def shuffle(values: Ids) -> Ids:
        windows, mixed = values // width, np.empty_like(values)
        for number in map(int, np.unique(windows)):
            here, start = windows == number, number * width
            length = min(width, num_runs * run_length - start)
            mixed[here] = start + permute(values[here] - start, length, (*key, 1, number))
        return permute(mixed // run_length, num_runs, (*key, 2)) * run_length + mixed % run_length

    image = shuffle(positions)
    while (outside := image >= size).any():
        image[outside] = shuffle(image[outside])
    return image


def proportional_counts(draws: Ids, number: int) -> Ids:
    """Draws of each source among the first `number` draws of an epoch, int64 (S,), summing to `number`.

    The epoch lasts from time 0 to 1. Source i makes its n_i draws at equal distances: floor(t n_i + o_i) by time t,
    with the offset o_i = (i + 1) / (S + 1). The counts are those at the earliest time by which `number` draws are
    made. If several sources draw at that moment, the surplus is subtracted from the first of them. Each count rises
    with `number`.

    Example: draws = (4, 8), hence offsets 1/3 and 2/3. Source 0 draws at times 1/6, 5/12, 2/3, 11/12 and source 1 at
    1/24, 1/6, 7/24, 5/12, 13/24, ... By time 5/12 they have made 2 + 4 draws, so number = 6 gives (2, 4). Before it
    they have made 1 + 3; number = 5 also gives time 5/12, and source 0 returns its draw: (1, 4).
    """
    if number == 0 or number == draws.sum():
        return draws if number else np.zeros_like(draws)
    one = 1 << 64  # times and offsets are integers in units of 2**-64, so that the counts are exact
    sizes = [int(n) for n in draws]
    offsets = [(i + 1) * one // (len(sizes) + 1) for i in range(len(sizes))]

    def counts_at(time: int) -> list[int]:
        return [(time * n + offset) // one for n, offset in zip(sizes, offsets, strict=True)]

    before, reached = 0, one  # bisection: fewer than `number` draws by `before`, at least `number` by `reached`
    while reached - before > 1:
        middle = (before + reached) // 2
        if sum(counts_at(middle)) < number:
            before = middle
        else:
            reached = middle
    counts = counts_at(reached)
    surplus = sum(counts) - number
    for i, count_before in enumerate(counts_at(before)):
        returned = min(surplus, counts[i] - count_before)
        counts[i] -= returned
        surplus -= returned
    return np.array(counts, dtype=np.int64)
