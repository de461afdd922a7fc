"""`DataLoader` construction for both stages; corrupt samples are counted and replaced deterministically."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import Dataset

from data_modules.config import CorruptSampleConfig
from data_modules.errors import DataError
from data_modules.faults import SKIPPED, FaultReport, SampleFault, printable, sample_errors
from data_modules.loader import SignalSafeDataLoader, build_fixed_loader
from data_modules.order.sampling import Draw, Order, RankBatchSampler
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")

MAX_REPLACEMENTS = 24
"""Replacements tried for a corrupt sample; the last one is 2^23 places behind it, beyond any bad shard."""


def open_sources(
    configs: Mapping[str, SourceConfig], shuffle_window: int = 0, corrupt_samples: CorruptSampleConfig | None = None
) -> list[PairSource]:
    """The configured sources, in the order of the configuration.

    Args:
        configs: Name -> settings.
        shuffle_window: Number of samples that are shuffled together; 0: the whole epoch.
        corrupt_samples: Limit of samples that opening may leave out; `None`: no limit.

    Raises:
        DataError: A source cannot be opened, or too much of it is left out.
    """
    sources = [open_source(name, config, shuffle_window) for name, config in configs.items()]
    if corrupt_samples is not None:
        for source in sources:
            _check_opening(source, corrupt_samples.max_share)
    return sources


def _check_opening(source: PairSource, max_share: float) -> None:
    reports = source.opening_faults()
    total = len(reports) + len(source)
    if len(reports) / total > max_share:
        kind, number = Counter(report.kind for report in reports).most_common(1)[0]
        raise DataError(
            f"source '{source.name}': {len(reports)} of {total} samples are left out, more than "
            f"data.corrupt_samples.max_share = {max_share:g}, most of them ({number}) because of {kind} "
            f"({SKIPPED[kind]}), the first {reports[0].key}; fix the data or raise the limit"
        )


@dataclass(slots=True)
class Loaded(Generic[Sample]):
    """A sample with the faults found while loading it."""

    sample: Sample
    faults: list[FaultReport]


MakeSample = Callable[[Draw, PairRecord, np.random.Generator, list[str]], Sample]
"""(draw, record, its random stream, list for repairs) -> sample; raises SampleFault."""


class PairDataset(Dataset[Loaded[Sample]], Generic[Sample]):
    """All sources behind one id space; an item is a draw turned into a sample by `make_sample`.

    A corrupt sample is replaced by the one 1, then 3, 6, 11, 20, ... (2^n + n) places behind it in its source (modulo
    its length), of the same language if the batch has a single one. The replacement has the random stream of its own
    id, so it looks the same in every run.
    """

    def __init__(self, sources: Sequence[PairSource], make_sample: MakeSample[Sample], seed: int) -> None:
        self.sources = list(sources)
        self.seed = seed
        self._make_sample = make_sample
        self._ends = np.cumsum([len(source) for source in self.sources])

    def locate(self, sample_id: int) -> tuple[int, int]:
        """Number of the source with this id, and the sample's index in it."""
        source = int(np.searchsorted(self._ends, sample_id, side="right"))
        return source, sample_id - (int(self._ends[source - 1]) if source else 0)

    def __getitem__(self, draw: Draw) -> Loaded[Sample]:
        """The sample of a draw, or of its replacement.

        Raises:
            DataError: No replacement can be used either.
        """
        number, index = self.locate(draw.sample_id)
        source = self.sources[number]
        faults: list[FaultReport] = []
        for attempt in range(MAX_REPLACEMENTS + 1):
            distance = (1 << (attempt - 1)) + attempt - 1 if attempt else 0
            place = (index + distance) % len(source)
            tried = Draw(draw.step, draw.sample_id - index + place, draw.language)
            repairs: list[str] = []
            try:
                record = source[place]
                if attempt and draw.language not in (None, record.language):
                    continue
                with sample_errors(record.key):
                    sample = self._make_sample(tried, record, tried.generator(self.seed), repairs)
            except SampleFault as fault:
                key, detail = printable(fault.key), printable(fault.detail)
                faults.append(FaultReport(fault.kind, source.name, key, tried.sample_id, tried.step, detail))
                continue
            repairs += record.repairs
            key = printable(record.key)
            faults += [FaultReport(kind, source.name, key, tried.sample_id, tried.step, "repaired") for kind in repairs]
            return Loaded(sample, faults)
        last = faults[-1]
        raise DataError(
            f"source '{source.name}': sample {draw.sample_id} and {MAX_REPLACEMENTS} others cannot be used, the last "
            f"one ({last.key}) because of {last.kind} ({last.detail}); fix or leave out the source"
        )


def build_loader(
    dataset: PairDataset[Sample],
    sampler: RankBatchSampler,
    collate: Callable[[list[Loaded[Sample]]], Batch],
    num_workers: int,
) -> SignalSafeDataLoader:
    """A loader that serves the sampler's batches in order, for any number of workers.

    A worker that dies or hangs ends the run with an error. Workers ignore stop signals and end with this process.
    """
    return build_fixed_loader(
        dataset, sampler, collate, num_workers, prefetch_factor=4, pin_memory=torch.cuda.is_available()
    )


class StageDataModule(pl.LightningDataModule):
    """A data module with one integer as its state: the number of finished optimizer steps."""

    def __init__(self, *, seed: int, max_steps: int) -> None:
        super().__init__()
        self.seed = seed
        self.max_steps = max_steps
        self.start_step = 0

    def build_sampler(self, order: Order) -> RankBatchSampler:
        """This rank's part of every remaining global batch."""
        trainer = self.trainer
        return RankBatchSampler(
            order,
            start_step=self.start_step,
            max_steps=self.max_steps,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )

    def __getstate__(self) -> dict[str, Any]:
        """For workers: without the trainer and the order with its large tables."""
        left_out = {"order", "dataset"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out} | {"trainer": None}

    def state_dict(self) -> dict[str, Any]:
        """The next step, counted in finished steps, not in fetched batches."""
        return {"next_step": self.trainer.global_step if self.trainer else self.start_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues at the saved step."""
        self.start_step = int(state_dict["next_step"])
