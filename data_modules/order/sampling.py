"""Which samples make global batch k: a pure function of (seed, k).

`BatchOrder.batch(k)` computes the sample ids of any global batch in O(batch), by language in O(batch log pairs),
without state. So a run resumes from one integer, and the numbers of ranks, workers and accumulation steps change
nothing.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from data_modules.errors import DataError
from data_modules.order.permutation import Ids, permute, permute_in_windows, proportional_counts
from data_modules.sources.rows import Rows

_IDS_AT_A_TIME = 8192
"""Ids that a sampler computes together: a small batch takes a tenth of the time of one by itself."""


class Order(Protocol):
    """Which samples make each global batch."""

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step over all ranks and accumulation steps."""

    @property
    def epoch_length(self) -> int: ...

    def batch(self, step: int) -> Ids:
        """The sample ids of global batch `step`, int64 (global_batch_size,)."""

    def batches(self, start: int, stop: int) -> Ids:
        """The sample ids of global batches [start, stop), int64 (stop - start, global_batch_size)."""

    def language(self, step: int) -> str | None:
        """The single language of global batch `step`; `None`: mixed."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Samples that share one weight: a source, or its pairs in one language."""

    first_id: int
    """Id of the source's first sample."""
    rows: Rows
    """The source's indices that belong to it."""


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """The order of a weighted mixture of sources, as global batches of sample ids.

    An epoch holds `round(weight * length)` draws of each source (at least one), shuffled together. A source continues
    where its last epoch ended: at weight 1 every sample comes once per epoch, at weight 0.2 once in five epochs, at
    weight 2 twice per epoch. Batches run across epoch ends; none is short.

    Attributes:
        lengths: Number of samples of each source. Source s owns the ids that follow those of source s - 1.
        weights: Passes over each source per epoch, > 0.
        global_batch_size: Samples of one optimizer step over all ranks and accumulation steps.
        seed: The run's seed.
        shuffle_window: Number of consecutive samples of the mixture that are shuffled together; 0: the whole epoch.
        run_length: Neighbours of a source that are read near one another, with a `shuffle_window`.
        strata: The samples that the lengths and weights refer to; `None`: whole sources with consecutive ids.
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
        """int64 (S,), draws of each source in one epoch."""
        draws = [max(1, round(w * n)) for w, n in zip(self.weights, self.lengths, strict=True)]
        return np.array(draws, dtype=np.int64)

    @property
    def epoch_length(self) -> int:
        """Samples in one epoch of the mixture."""
        return int(self.draws_per_source.sum())

    def language(self, step: int) -> str | None:
        """`None`: batches mix languages."""
        return None

    def batch(self, step: int) -> Ids:
        """The sample ids of global batch `step`, int64 (global_batch_size,)."""
        ids: Ids = self.batches(step, step + 1)[0]
        return ids

    def batches(self, start: int, stop: int) -> Ids:
        """The sample ids of global batches [start, stop), int64 (stop - start, global_batch_size)."""
        slots = np.arange(start * self.global_batch_size, stop * self.global_batch_size, dtype=np.int64)
        epochs, positions = slots // self.epoch_length, slots % self.epoch_length
        ids = np.empty_like(slots)
        for epoch in map(int, np.unique(epochs)):
            here = epochs == epoch
            ids[here] = self._ids_in_epoch(positions[here], epoch)
        return ids.reshape(-1, self.global_batch_size)

    def _ids_in_epoch(self, positions: Ids, epoch: int) -> Ids:
        draws = self.draws_per_source
        sources, indices = self._draws_in_epoch(positions, epoch, draws)
        draw_of_run = epoch * draws[sources] + indices
        ids = np.empty_like(positions)
        for source in map(int, np.unique(sources)):
            of_source = sources == source
            passes, places = np.divmod(draw_of_run[of_source], self.lengths[source])
            samples = np.empty_like(places)
            for number in map(int, np.unique(passes)):
                of_pass = passes == number
                samples[of_pass] = self._shuffle(places[of_pass], source, number)
            ids[of_source] = self._ids(source, samples)
        return ids

    def _draws_in_epoch(self, positions: Ids, epoch: int, draws: Ids) -> tuple[Ids, Ids]:
        """Source of each position of an epoch, and index of the draw among that source's draws of the epoch.

        The epoch is cut into windows. Each window lists its share of every source's draws (`proportional_counts`),
        source after source, and shuffles the list.

        Example: two sources with 4 and 8 draws per epoch, windows of 6. Before window 1 (positions 6 to 11) the
        sources have made 2 and 4 draws, after it 4 and 8, so its list is

            item    0  1  2  3  4  5
            source  0  0  1  1  1  1
            draw    2  3  4  5  6  7

        If the shuffle sends position 6, the window's first, to item 3, position 6 is draw 5 of source 1.
        """
        sources, indices = np.empty_like(positions), np.empty_like(positions)
        width = self.shuffle_window or self.epoch_length
        windows = positions // width
        for window in map(int, np.unique(windows)):
            here = windows == window
            start, stop = window * width, min((window + 1) * width, self.epoch_length)
            drawn_before = proportional_counts(draws, start)
            drawn_here = proportional_counts(draws, stop) - drawn_before
            key = (self.seed, 0, epoch, window) if self.shuffle_window else (self.seed, 0, epoch)
            items = permute(positions[here] - start, stop - start, key)
            item_ends = np.cumsum(drawn_here)
            item_starts = item_ends - drawn_here
            source = np.searchsorted(item_ends, items, side="right")
            sources[here] = source
            indices[here] = drawn_before[source] + items - item_starts[source]
        return sources, indices

    def _shuffle(self, places: Ids, source: int, number: int) -> Ids:
        """Samples of a source at these places of pass `number` over it."""
        length, key = self.lengths[source], (self.seed, 1, source, number)
        if not self.shuffle_window:
            return permute(places, length, key)
        # The source's part of a window of the mixture.
        share = int(self.draws_per_source[source]) / self.epoch_length
        window = max(1, round(self.shuffle_window * share))
        return permute_in_windows(places, length, key, window=window, run_length=self.run_length)

    def _ids(self, source: int, samples: Ids) -> Ids:
        if self.strata is not None:
            return self.strata[source].first_id + self.strata[source].rows.take(samples)
        return sum(self.lengths[:source]) + samples


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one step; its random streams (`order.streams`) depend only on these two and the seed.

    A sample that comes twice in one batch (weight above 1, or an epoch shorter than a batch) looks the same twice.
    """

    step: int
    sample_id: int
    language: str | None = None
    """Required language of a replacement; `None`: any. It does not affect the stream."""


class PlannedDraws(list[Draw]):
    """The draws of a batch, and what a later batch of the same loader process will need.

    Attributes:
        ahead: Ids of its samples; empty if nothing is to be read ahead.
    """

    ahead: Sequence[int] = ()


class RankBatchSampler(Sampler[list[Draw]]):
    """This rank's part of every global batch.

    Rank r of w takes the r-th of w equal, contiguous parts of `order.batch(k)`. Gradient accumulation splits the part
    into micro-batches later.

    Args:
        order: The order of the whole run.
        start_step: First optimizer step to serve; on resume, the number of finished steps.
        max_steps: Number of optimizer steps of the whole run.
        rank: This process's rank.
        world_size: Number of ranks.
        steps_ahead: Each batch tells the ids of the one so many steps later; 0: of none.

    Raises:
        DataError: The global batch cannot be divided by the number of ranks.
    """

    def __init__(
        self, order: Order, *, start_step: int, max_steps: int, rank: int, world_size: int, steps_ahead: int = 0
    ) -> None:
        if order.global_batch_size % world_size:
            raise DataError(
                f"data.global_batch_size = {order.global_batch_size} must be a multiple of the number of ranks "
                f"= {world_size}; change one of them"
            )
        self.order, self.start_step, self.max_steps, self.rank = order, start_step, max_steps, rank
        self.batch_size, self.steps_ahead = order.global_batch_size // world_size, steps_ahead

    def __len__(self) -> int:
        """Batches of the whole run, also after a resume: Lightning counts from the beginning of the run."""
        return self.max_steps

    def __iter__(self) -> Iterator[PlannedDraws]:
        upcoming: deque[tuple[int, Ids]] = deque()
        for one in self._parts():
            upcoming.append(one)
            if len(upcoming) > self.steps_ahead:
                yield self._planned(*upcoming.popleft(), one[1] if self.steps_ahead else None)
        while upcoming:
            yield self._planned(*upcoming.popleft(), None)

    def _parts(self) -> Iterator[tuple[int, Ids]]:
        """Every remaining step with the ids of this rank's part of its batch."""
        steps_at_a_time = max(1, _IDS_AT_A_TIME // self.order.global_batch_size)
        part = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for start in range(self.start_step, self.max_steps, steps_at_a_time):
            stop = min(start + steps_at_a_time, self.max_steps)
            yield from enumerate(self.order.batches(start, stop)[:, part], start=start)

    def _planned(self, step: int, ids: Ids, ahead: Ids | None) -> PlannedDraws:
        language = self.order.language(step)
        draws = PlannedDraws(Draw(step, sample_id, language) for sample_id in ids.tolist())
        if ahead is not None:
            draws.ahead = ahead.tolist()
        return draws
