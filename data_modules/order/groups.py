"""Parts of a global batch that draw from runs of their own, so that each run is read on one machine only."""

from dataclasses import dataclass

import numpy as np

from data_modules.errors import DataError
from data_modules.order.permutation import Ids
from data_modules.order.sampling import BatchOrder, Stratum
from data_modules.sources.rows import EveryNth, Rows

_GROUP_SHIFT = 40
"""Seeds of groups differ above the bits of the run's seed and of its languages."""


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The indices of every n-th run.

    Example: runs of 2, 3 groups, 13 indices: group 0 has the runs 0, 3, 6 with the indices 0, 1, 6, 7, 12.

    Attributes:
        rows: All indices.
        group: Number of this group, 0 <= group < num_groups.
        num_groups: Number of groups.
        run_length: Indices of a run.
    """

    rows: Rows
    group: int
    num_groups: int
    run_length: int

    def __len__(self) -> int:
        num_runs = -(-len(self.rows) // self.run_length)
        own = -(-(num_runs - self.group) // self.num_groups)
        has_last = own > 0 and (num_runs - 1) % self.num_groups == self.group
        return max(0, own) * self.run_length - has_last * (num_runs * self.run_length - len(self.rows))

    def take(self, positions: Ids) -> Ids:
        """The indices at these positions, int64 (N,) each."""
        runs, places = np.divmod(positions, self.run_length)
        return self.rows.take((runs * self.num_groups + self.group) * self.run_length + places)


@dataclass(frozen=True, slots=True)
class GroupedOrder:
    """Global batches of equal, contiguous parts, each with an order, epochs and windows of its own.

    Attributes:
        orders: One per part; they have no sample in common.
    """

    orders: tuple[BatchOrder, ...]

    @property
    def global_batch_size(self) -> int:
        return sum(order.global_batch_size for order in self.orders)

    @property
    def epoch_length(self) -> int:
        """Samples of an epoch of every part."""
        return sum(order.epoch_length for order in self.orders)

    def batch(self, step: int) -> Ids:
        """The sample ids of global batch `step`, int64 (global_batch_size,)."""
        ids: Ids = self.batches(step, step + 1)[0]
        return ids

    def batches(self, start: int, stop: int) -> Ids:
        """The sample ids of global batches [start, stop), int64 (stop - start, global_batch_size)."""
        return np.concatenate([order.batches(start, stop) for order in self.orders], axis=1)

    def language(self, step: int) -> str | None:
        """`None`: batches mix languages."""
        return None


def grouped(whole: BatchOrder, num_groups: int) -> BatchOrder | GroupedOrder:
    """An order in groups; of a single one, the order itself.

    Args:
        whole: With a `shuffle_window`; the groups share its window and its batch.
        num_groups: Divides its batch.

    Raises:
        DataError: A source has fewer runs than there are groups.
    """
    if num_groups == 1:
        return whole
    strata = whole.strata or _whole_sources(whole)
    shortest = min(-(-length // whole.run_length) for length in whole.lengths)
    if shortest < num_groups:
        raise DataError(
            f"data.order.groups = {num_groups} must be at most {shortest}, the runs of order.run_length = "
            f"{whole.run_length} of the smallest source: use fewer groups or shorter runs"
        )
    return GroupedOrder(tuple(_group(whole, strata, number, num_groups) for number in range(num_groups)))


def _whole_sources(whole: BatchOrder) -> tuple[Stratum, ...]:
    firsts = [sum(whole.lengths[:source]) for source in range(len(whole.lengths))]
    rows = [EveryNth(0, 1, length) for length in whole.lengths]
    return tuple(map(Stratum, firsts, rows))


def _group(whole: BatchOrder, strata: tuple[Stratum, ...], number: int, num_groups: int) -> BatchOrder:
    rows = [GroupRows(stratum.rows, number, num_groups, whole.run_length) for stratum in strata]
    return BatchOrder(
        tuple(map(len, rows)),
        whole.weights,
        whole.global_batch_size // num_groups,
        whole.seed + (number << _GROUP_SHIFT),
        max(1, whole.shuffle_window // num_groups),
        whole.run_length,
        tuple(Stratum(stratum.first_id, own) for stratum, own in zip(strata, rows, strict=True)),
    )
