"""What both stages' data modules share: sources, faults, and the loader over the order."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from data_modules.config_roles import PERFORMANCE, at_least, between, check_ranges
from data_modules.errors import DataError
from data_modules.faults import SKIPPED, FaultReport, SampleFault, printable, sample_errors
from data_modules.images.decoding import MAX_IMAGE_PIXELS
from data_modules.loader_process import START_METHOD, LoaderOfProcesses, start_loader_process
from data_modules.order.sampling import Draw, RankBatchSampler
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.protocol import PairSource

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")

MAX_REPLACEMENTS = 24
"""Samples tried in place of a bad one, the last one 2^23 places behind it: enough to leave any bad shard."""
LOADER_TIMEOUT_SECONDS = 600
"""How long a batch may take before the run stops with an error."""


@dataclass(kw_only=True, slots=True)
class CorruptSampleConfig:
    """What is done about samples that cannot be used."""

    max_share: float = field(default=0.01, metadata=PERFORMANCE | between(0, 1))
    """Share of skipped samples, in [0, 1], above which the run stops; not before ten times 1 / max_share were drawn."""
    max_image_pixels: int = field(default=MAX_IMAGE_PIXELS, metadata=at_least(1))
    """Larger images are skipped before they are decoded."""

    def __post_init__(self) -> None:
        check_ranges(self)


def open_sources(
    configs: Mapping[str, SourceConfig], shuffle_window: int = 0, corrupt_samples: CorruptSampleConfig | None = None
) -> list[PairSource]:
    """The configured sources, in the order of their names in the configuration.

    Args:
        configs: Name -> settings.
        shuffle_window: Over how many samples the order mixes; 0: all.
        corrupt_samples: The limit of what may be left out when a source is opened; `None`: any number.

    Raises:
        DataError: A source cannot be opened, or too much of it had to be left out.
    """
    sources = [open_source(name, config, shuffle_window) for name, config in configs.items()]
    for source in sources if corrupt_samples else []:
        _check_opening(source, corrupt_samples.max_share if corrupt_samples else 1.0)
    return sources


def _check_opening(source: PairSource, max_share: float) -> None:
    reports = source.opening_faults()
    share = len(reports) / (len(reports) + len(source))
    if share > max_share:
        worst, number = Counter(report.kind for report in reports).most_common(1)[0]
        raise DataError(
            f"source '{source.name}': {len(reports)} of {len(reports) + len(source)} samples are left out, more than "
            f"data.corrupt_samples.max_share = {max_share:g}, most of them ({number}) because of {worst} "
            f"({SKIPPED[worst]}), the first {reports[0].key}; mend the data or raise the limit"
        )


@dataclass(slots=True)
class Loaded(Generic[Sample]):
    """A sample, and what was met on the way to it."""

    sample: Sample
    faults: list[FaultReport]


MakeSample = Callable[[Draw, PairRecord, np.random.Generator, list[str]], Sample]
"""(draw, record, its random stream, list for repairs) -> sample; raises SampleFault."""


class PairDataset(Dataset[Loaded[Sample]], Generic[Sample]):
    """All sources behind one id space; an item is a draw turned into a sample by `make_sample`.

    This is the one place where a bad sample is replaced: by the sample 1, then 3, 6, 11, 20, ... (2^n + n) places
    behind it in its source (round the end), in the same language where the batch is of one. The replacement is drawn as
    if the order had named it, so it looks the same in every run.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        make_sample: MakeSample[Sample],
        seed: int,
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self._make_sample = make_sample
        self._ends = np.cumsum([len(source) for source in self.sources])

    def locate(self, sample_id: int) -> tuple[int, int]:
        """The source with this id, and the sample's index in it."""
        source = int(np.searchsorted(self._ends, sample_id, side="right"))
        return source, sample_id - (int(self._ends[source - 1]) if source else 0)

    def record(self, sample_id: int) -> PairRecord:
        """The record with this id.

        Raises:
            SampleFault: It cannot be used.
        """
        source, index = self.locate(sample_id)
        return self.sources[source][index]

    def __getitem__(self, draw: Draw) -> Loaded[Sample]:
        """The sample of a draw, or of its replacement.

        Raises:
            DataError: No replacement can be used either.
        """
        source, index = self.locate(draw.sample_id)
        name, length = self.sources[source].name, len(self.sources[source])
        faults: list[FaultReport] = []
        for attempt in range(MAX_REPLACEMENTS + 1):
            distance = (1 << (attempt - 1)) + attempt - 1 if attempt else 0
            now = Draw(draw.step, draw.sample_id - index + (index + distance) % length, draw.language)
            repairs: list[str] = []
            try:
                record = self.record(now.sample_id)
                if attempt and draw.language not in (None, record.language):
                    continue
                with sample_errors(record.key):
                    sample = self._make_sample(now, record, now.generator(self.seed), repairs)
            except SampleFault as fault:
                key, detail = printable(fault.key), printable(fault.detail)
                faults.append(FaultReport(fault.kind, name, key, now.sample_id, now.step, detail))
                continue
            repairs += record.repairs
            key = printable(record.key)
            faults += [FaultReport(kind, name, key, now.sample_id, now.step, "repaired") for kind in repairs]
            return Loaded(sample, faults)
        last = faults[-1]
        raise DataError(
            f"source '{name}': sample {draw.sample_id} and {MAX_REPLACEMENTS} others cannot be used, the last one "
            f"({last.key}) because of {last.kind} ({last.detail}); mend or leave out the source"
        )


def build_loader(
    dataset: PairDataset[Sample],
    sampler: RankBatchSampler,
    collate: Callable[[list[Loaded[Sample]]], Batch],
    num_workers: int,
) -> LoaderOfProcesses:
    """A loader that serves the sampler's batches in order, whatever the number of workers.

    A worker that dies or hangs ends the run with an error: torch watches over the first, a time limit over the second.
    Signals that end a run do not end its workers, which live as long as this process wants them, and no longer.
    """
    return LoaderOfProcesses(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        multiprocessing_context=START_METHOD if num_workers else None,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if num_workers else None,
        timeout=LOADER_TIMEOUT_SECONDS if num_workers else 0,
        # The samples' random streams are their own: the loader may not touch the global one.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=functools.partial(start_loader_process, os.getpid()),
    )
