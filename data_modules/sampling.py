"""Which samples make global batch k: a pure function of (seed, k).

No state, no worker, no rank: `BatchOrder.batch(k)` computes the sample ids of any global batch in
O(batch), so a run resumes from one integer and a change of ranks or workers changes nothing.

The permutation is a Feistel network over the next power of four with cycle walking (Black & Rogaway 2002,
"Ciphers with arbitrary finite domains"), so that no array as long as the epoch is ever held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from data_modules.errors import DataError

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


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """The order of a weighted mixture of sources, as global batches of sample ids.

    An epoch holds `round(weight * length)` draws of each source (at least one), shuffled together. A source
    continues where its last epoch ended, so at weight 1 every sample comes exactly once an epoch, at weight 0.2
    once in five epochs, at weight 2 twice an epoch. Batches run across epoch ends; none is short.

    Attributes:
        lengths: Number of samples of each source. Source s owns the ids that follow those of source s - 1.
        weights: Passes over each source per epoch, > 0.
        global_batch_size: Samples of one optimizer step over all ranks and accumulation steps.
        seed: The run's seed.
    """

    lengths: tuple[int, ...]
    weights: tuple[float, ...]
    global_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise DataError(f"every source needs at least one sample; the lengths are {list(self.lengths)}")

    @property
    def draws_per_source(self) -> Ids:
        """int64 (S,), how many samples of each source one epoch holds."""
        draws = [max(1, round(w * n)) for w, n in zip(self.weights, self.lengths, strict=True)]
        return np.array(draws, dtype=np.int64)

    @property
    def epoch_length(self) -> int:
        """Samples in one epoch of the mixture."""
        return int(self.draws_per_source.sum())

    def batch(self, step: int) -> Ids:
        """The sample ids of global batch `step`, int64 (global_batch_size,)."""
        draws = self.draws_per_source
        first = step * self.global_batch_size
        slots = np.arange(first, first + self.global_batch_size, dtype=np.int64)
        epochs, positions = slots // self.epoch_length, slots % self.epoch_length
        ids = np.empty_like(slots)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            ids[here] = self._ids_in_epoch(positions[here], int(epoch), draws)
        return ids

    def _ids_in_epoch(self, positions: Ids, epoch: int, draws: Ids) -> Ids:
        shuffled = permute(positions, self.epoch_length, (self.seed, 0, epoch))
        ends, starts = np.cumsum(draws), np.cumsum(self.lengths) - np.array(self.lengths)
        sources = np.searchsorted(ends, shuffled, side="right")
        counters = epoch * draws[sources] + shuffled - (ends - draws)[sources]
        ids = np.empty_like(positions)
        for source in np.unique(sources):
            here, length = sources == source, self.lengths[source]
            passes, indices = counters[here] // length, counters[here] % length
            drawn = np.empty_like(indices)
            for number in np.unique(passes):
                now = passes == number
                drawn[now] = permute(indices[now], length, (self.seed, 1, int(source), int(number)))
            ids[here] = starts[source] + drawn
        return ids


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one step; its random stream depends on nothing else but the seed.

    A sample that comes twice in one batch (weight above 1, or an epoch shorter than a batch) looks the same twice.
    """

    step: int
    sample_id: int

    def generator(self, seed: int) -> np.random.Generator:
        """The random stream of this draw: crops, caption and mask come from it, in a fixed order."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 2, self.step, self.sample_id])))

    def model_seed(self, seed: int) -> int:
        """A number in [0, 2**63) for what the model draws for this sample (dropout): independent of its place."""
        words = np.random.SeedSequence([seed, 3, self.step, self.sample_id]).generate_state(1, np.uint64)
        return int(words[0]) >> 1


class RankBatchSampler(Sampler[list[Draw]]):
    """This rank's micro-batches, step after step.

    Global batch k is cut into `accumulate` runs of `world_size` equal pieces; the piece of accumulation step a on
    rank r is number a * world_size + r. The union over ranks and accumulation steps is `order.batch(k)`, always.

    Args:
        order: The order of the whole run.
        start_step: First optimizer step to serve (resume: the number of steps already trained on).
        max_steps: Number of optimizer steps of the whole run.
        rank: This process's rank.
        world_size: Number of ranks.
        accumulate: Micro-batches per optimizer step.
    """

    def __init__(
        self,
        order: BatchOrder,
        *,
        start_step: int,
        max_steps: int,
        rank: int,
        world_size: int,
        accumulate: int,
    ) -> None:
        pieces = world_size * accumulate
        if order.global_batch_size % pieces:
            raise DataError(
                f"data.global_batch_size = {order.global_batch_size} must be a multiple of ranks x accumulation "
                f"= {world_size} x {accumulate}; change one of them"
            )
        self.order, self.start_step, self.max_steps = order, start_step, max_steps
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.batch_size = order.global_batch_size // pieces

    def __len__(self) -> int:
        """Micro-batches of the whole run, also when it starts later: Lightning counts from the run's beginning."""
        return self.max_steps * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start_step, self.max_steps):
            ids = self.order.batch(step)
            for piece in range(self.rank, self.world_size * self.accumulate, self.world_size):
                mine = ids[piece * self.batch_size : (piece + 1) * self.batch_size]
                yield [Draw(step, int(sample_id)) for sample_id in mine]
