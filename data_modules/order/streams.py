"""The random streams of a batch's samples, equal to those that `numpy.random.SeedSequence` seeds one by one.

A `SeedSequence` takes ten microseconds per sample, most of it Python objects. Here the state words of all samples are
computed together.

Reference: numpy's documentation of `SeedSequence`; O'Neill 2015, "Developing a seed_seq Alternative"; Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISpawnableSeedSequence
from numpy.typing import NDArray

from data_modules.order.sampling import Draw

Words = NDArray[np.uint32]

_POOL_WORDS = 4
_WORD_BITS, _WORD_MASK = 32, (1 << 32) - 1
_HALF = np.uint32(16)
_HASH_START, _HASH_FACTOR = 0x43B0D7E5, 0x931E8875
_STATE_START, _STATE_FACTOR = 0x8B51F9DD, 0x58F38DED
_MIX_LEFT, _MIX_RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)

_SAMPLE_STREAM, _MODEL_STREAM = 2, 3
"""Second integer of the entropy: of a sample's background, crops, caption and mask, and of what the model samples."""
_KEY_WORDS = 2
"""64-bit words of a key of Philox."""


def sample_generators(seed: int, draws: Sequence[Draw]) -> list[np.random.Generator]:
    """One stream per draw, for its background, crops, caption and mask; a function of seed, step and sample id.

    Each equals `Generator(Philox(SeedSequence([seed, 2, step, sample_id])))`, its spawned streams included.
    """
    states = seed_states(seed, _SAMPLE_STREAM, draws, _KEY_WORDS)
    entropies = ([seed, _SAMPLE_STREAM, draw.step, draw.sample_id] for draw in draws)
    # Philox takes any seed sequence, which its type hints do not say.
    seeds: Iterator[Any] = (_ComputedSeed(*one) for one in zip(entropies, states, strict=True))
    return [np.random.Generator(np.random.Philox(one)) for one in seeds]


def model_seeds(seed: int, draws: Sequence[Draw]) -> NDArray[np.int64]:
    """A seed per draw for what the model samples for it (dropout), whatever its place in the batch.

    Returns:
        int64 (N,), each in [0, 2**63): half of the first word of `SeedSequence([seed, 3, step, sample_id])`.
    """
    return (seed_states(seed, _MODEL_STREAM, draws, 1)[:, 0] >> np.uint64(1)).astype(np.int64)


def seed_states(seed: int, stream: int, draws: Sequence[Draw], num_words: int) -> NDArray[np.uint64]:
    """`SeedSequence([seed, stream, step, sample_id]).generate_state(num_words, uint64)` of each draw.

    Returns:
        uint64 (N, num_words).
    """
    states = np.empty((len(draws), num_words), dtype=np.uint64)
    first_words = [*_words(seed), *_words(stream)]
    entropies = [[*first_words, *_words(draw.step), *_words(draw.sample_id)] for draw in draws]
    for length in set(map(len, entropies)):  # an integer of 2**32 or more has several words
        here = [place for place, one in enumerate(entropies) if len(one) == length]
        words = np.array([entropies[place] for place in here], dtype=np.uint32).T
        states[here] = _state(_mixed_pool(words), num_words)
    return states


class _ComputedSeed(ISpawnableSeedSequence):
    """A `SeedSequence` of which the words that Philox takes are known."""

    def __init__(self, entropy: list[int], key: NDArray[np.uint64]) -> None:
        self._entropy, self._key = entropy, key
        self._whole: np.random.SeedSequence | None = None

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        if (n_words, dtype) == (_KEY_WORDS, np.uint64):
            return self._key
        return self._sequence.generate_state(n_words, dtype)

    def spawn(self, n_children: int) -> list[Any]:
        return self._sequence.spawn(n_children)

    @property
    def _sequence(self) -> np.random.SeedSequence:
        self._whole = self._whole or np.random.SeedSequence(self._entropy)
        return self._whole


def _words(number: int) -> list[int]:
    """The 32-bit words of a non-negative integer, the lowest first; one for 0."""
    words = [number & _WORD_MASK]
    while number := number >> _WORD_BITS:
        words.append(number & _WORD_MASK)
    return words


def _mixed_pool(entropy: Words) -> Words:
    """The pools that the entropies are mixed into, uint32 (4, N) from (W, N)."""
    constants = _constants(_HASH_START, _HASH_FACTOR, _POOL_WORDS * max(_POOL_WORDS, len(entropy)))
    padding = np.zeros((max(0, _POOL_WORDS - len(entropy)), entropy.shape[1]), dtype=np.uint32)
    pool = _hash(np.concatenate([entropy[:_POOL_WORDS], padding]), constants[: _POOL_WORDS + 1])
    used = _POOL_WORDS
    for source in range(_POOL_WORDS):
        others = [place for place in range(_POOL_WORDS) if place != source]
        pool[others] = _mix(pool[others], _hash(pool[source], constants[used : used + _POOL_WORDS]))
        used += len(others)
    for word in entropy[_POOL_WORDS:]:
        pool = _mix(pool, _hash(word, constants[used : used + _POOL_WORDS + 1]))
        used += _POOL_WORDS
    return pool


def _state(pool: Words, num_words: int) -> NDArray[np.uint64]:
    """Words of the state, uint64 (N, num_words), from pools (4, N)."""
    constants = _constants(_STATE_START, _STATE_FACTOR, 2 * num_words)
    halves = _hash(pool[np.arange(2 * num_words) % _POOL_WORDS], constants).astype(np.uint64)
    return (halves[::2] | halves[1::2] << np.uint64(_WORD_BITS)).T


def _hash(words: Words, constants: Words) -> Words:
    """Row k of the result is hashed with constants k and k + 1; all rows of words that have one row are that row."""
    hashed = (words ^ constants[:-1]) * constants[1:]
    return hashed ^ (hashed >> _HALF)


def _mix(left: Words, right: Words) -> Words:
    mixed: Words = left * _MIX_LEFT - right * _MIX_RIGHT
    return mixed ^ (mixed >> _HALF)


def _constants(start: int, factor: int, number: int) -> Words:
    """The constants of `number` hashes and the next one, uint32 (number + 1, 1), each `factor` times the one before."""
    found = [start]
    for _ in range(number):
        found.append(found[-1] * factor & _WORD_MASK)
    return np.array(found, dtype=np.uint32)[:, None]
