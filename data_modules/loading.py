"""What both stages' data modules share: sources, their order, and the loader over it."""

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data_modules.records import PairRecord
from data_modules.sampling import BatchOrder, Draw, RankBatchSampler
from data_modules.sources.config import SourceConfig
from data_modules.sources.parquet import ParquetSource
from data_modules.sources.protocol import PairSource

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


def open_sources(configs: Mapping[str, SourceConfig]) -> list[PairSource]:
    """The configured sources, in the order of their names in the configuration."""
    return [ParquetSource(name, config) for name, config in configs.items()]


class PairDataset(Dataset[Sample]):
    """All sources behind one id space; an item is a draw turned into a sample by `make_sample`."""

    def __init__(
        self,
        sources: Sequence[PairSource],
        make_sample: Callable[[Draw, PairRecord, np.random.Generator], Sample],
        seed: int,
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self._make_sample = make_sample
        self._ends = np.cumsum([len(source) for source in self.sources])

    def record(self, sample_id: int) -> PairRecord:
        """The record with this id."""
        source = int(np.searchsorted(self._ends, sample_id, side="right"))
        start = int(self._ends[source - 1]) if source else 0
        return self.sources[source][sample_id - start]

    def __getitem__(self, draw: Draw) -> Sample:
        return self._make_sample(draw, self.record(draw.sample_id), draw.generator(self.seed))


def build_order(
    sources: Sequence[PairSource], configs: Mapping[str, SourceConfig], batch: int, seed: int
) -> BatchOrder:
    """The order in which the sources are drawn."""
    return BatchOrder(
        lengths=tuple(len(source) for source in sources),
        weights=tuple(configs[source.name].weight for source in sources),
        global_batch_size=batch,
        seed=seed,
    )


def build_loader(
    dataset: PairDataset[Sample],
    sampler: RankBatchSampler,
    collate: Callable[[list[Sample]], Batch],
    num_workers: int,
) -> "DataLoader[Any]":
    """A loader that serves the sampler's micro-batches in order, whatever the number of workers."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if num_workers else None,
        # The samples' random streams are their own: the loader may not touch the global one.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_start_worker,
    )


def _start_worker(_: int) -> None:
    """One thread per worker; Ctrl-C is for the main process, which still needs batches to end its step."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
