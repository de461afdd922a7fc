"""Which samples make global batch k: a pure function of (seed, k).

No state, no worker, no rank: `BatchOrder.batch(k)` computes the sample ids of any global batch in
O(batch), by language O(batch log pairs), so a run resumes from one integer and a change of ranks, workers or
accumulation changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from data_modules.errors import DataError
from data_modules.order.permutation import Ids, permute, permute_in_windows, proportional_counts
from data_modules.sources.rows import Rows


class Order(Protocol):
    """Which samples make each global batch."""

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step over all ranks and accumulation steps."""
        ...

    @property
    def epoch_length(self) -> int:
        """Samples in one epoch."""
        ...

    def batch(self, step: int) -> Ids:
        """The sample ids of global batch `step`, int64 (global_batch_size,)."""
        ...

    def language(self, step: int) -> str | None:
        """The language that global batch `step` must be in; none: any."""
        ...


@dataclass(frozen=True, slots=True)
class Stratum:
    """Samples that are drawn with one weight: a source, or its pairs in one language."""

    first_id: int
    """Id of the source's first sample."""
    rows: Rows
    """The source's indices that belong to it."""


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
        shuffle_window: Samples of the mixture over which the order mixes; 0: the whole epoch, nothing read in runs.
        run_length: Neighbours of a source that are read near one another, where there is a window.
        strata: What the s-th length and weight belong to; none: consecutive ids.
    """

    lengths: tuple[int, ...]
    weights: tuple[float, ...]
    global_batch_size: int
    seed: int
    shuffle_window: int = 0
    run_length: int = 64
    strata: tuple[Stratum, ...] | None = None

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

    def language(self, step: int) -> str | None:
        """None: every batch holds whatever the mixture gives."""
        return None

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
        sources, counters = self._draws_in_epoch(positions, epoch, draws)
        counters += epoch * draws[sources]
        ids = np.empty_like(positions)
        for source in np.unique(sources):
            here, length = sources == source, self.lengths[source]
            passes, indices = counters[here] // length, counters[here] % length
            drawn = np.empty_like(indices)
            for number in np.unique(passes):
                now = passes == number
                drawn[now] = self._shuffle(indices[now], int(source), int(number))
            ids[here] = self._ids(int(source), drawn)
        return ids

    def _draws_in_epoch(self, positions: Ids, epoch: int, draws: Ids) -> tuple[Ids, Ids]:
        """The source of each position, and the how-manieth draw of that source in the epoch it is."""
        sources, counters = np.empty_like(positions), np.empty_like(positions)
        width = self.shuffle_window or self.epoch_length
        windows = positions // width
        for window in np.unique(windows):
            here, first = windows == window, int(window) * width
            stop = min(first + width, self.epoch_length)
            before, after = proportional_counts(draws, first), proportional_counts(draws, stop)
            key = (self.seed, 0, epoch, int(window)) if self.shuffle_window else (self.seed, 0, epoch)
            shuffled = permute(positions[here] - first, stop - first, key)
            ends = np.cumsum(after - before)
            sources[here] = found = np.searchsorted(ends, shuffled, side="right")
            counters[here] = before[found] + shuffled - (ends - after + before)[found]
        return sources, counters

    def _shuffle(self, indices: Ids, source: int, number: int) -> Ids:
        """The order of pass `number` over a source."""
        length, key = self.lengths[source], (self.seed, 1, source, number)
        if not self.shuffle_window:
            return permute(indices, length, key)
        # The source's part of a window of the mixture.
        share = int(self.draws_per_source[source]) / self.epoch_length
        window = max(1, round(self.shuffle_window * share))
        return permute_in_windows(indices, length, key, window=window, run_length=self.run_length)

    def _ids(self, source: int, indices: Ids) -> Ids:
        if self.strata is not None:
            return self.strata[source].first_id + self.strata[source].rows.take(indices)
        return sum(self.lengths[:source]) + indices


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one step; its random stream depends on nothing else but the seed.

    A sample that comes twice in one batch (weight above 1, or an epoch shorter than a batch) looks the same twice.
    """

    step: int
    sample_id: int
    language: str | None = None
    """The language that a replacement must have, if it matters; no part of the stream."""

    def generator(self, seed: int) -> np.random.Generator:
        """The random stream of this draw: crops, caption and mask come from it, in a fixed order."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 2, self.step, self.sample_id])))

    def model_seed(self, seed: int) -> int:
        """A number in [0, 2**63) for what the model draws for this sample (dropout): independent of its place."""
        words = np.random.SeedSequence([seed, 3, self.step, self.sample_id]).generate_state(1, np.uint64)
        return int(words[0]) >> 1


class RankBatchSampler(Sampler[list[Draw]]):
    """This rank's share of every global batch, step after step.

    Rank r of w takes the r-th of w equal, contiguous parts of `order.batch(k)`: the parts in the order of the ranks
    are the global batch, whatever w is. Whoever accumulates gradients cuts the part into pieces later.

    Args:
        order: The order of the whole run.
        start_step: First optimizer step to serve (resume: the number of steps already trained on).
        max_steps: Number of optimizer steps of the whole run.
        rank: This process's rank.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        order: Order,
        *,
        start_step: int,
        max_steps: int,
        rank: int,
        world_size: int,
    ) -> None:
        if order.global_batch_size % world_size:
            raise DataError(
                f"data.global_batch_size = {order.global_batch_size} must be a multiple of the number of ranks "
                f"= {world_size}; change one of them"
            )
        self.order, self.start_step, self.max_steps = order, start_step, max_steps
        self.rank = rank
        self.batch_size = order.global_batch_size // world_size

    def __len__(self) -> int:
        """Batches of the whole run, also when it starts later: Lightning counts from the run's beginning."""
        return self.max_steps

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start_step, self.max_steps):
            mine = self.order.batch(step)[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            language = self.order.language(step)
            yield [Draw(step, int(sample_id), language) for sample_id in mine]
