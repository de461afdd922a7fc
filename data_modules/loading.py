"""`DataLoader` construction for both stages; corrupt samples are counted and replaced deterministically."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.config import CorruptSampleConfig, ImageDataConfig, ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.faults import ABSENT, SKIPPED, FaultReport, SampleFault, printable, sample_errors
from data_modules.images.transforms.uncut import UncutWriter, cut
from data_modules.loader import SignalSafeDataLoader, build_fixed_loader
from data_modules.order.sampling import Draw, Order, PlannedDraws, RankBatchSampler
from data_modules.order.streams import model_seeds, sample_generators
from data_modules.prefetch import MAX_BATCHES_PER_WORKER
from data_modules.records import PairRecord, UncutBatch
from data_modules.sources.checking import check_source
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource

_log = logging.getLogger(__name__)

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)

MAX_REPLACEMENTS = 24
"""Replacements tried for a corrupt sample; the last one is 2^23 places behind it, beyond any bad shard."""
_SAMPLES_AT_A_TIME = 64
"""Samples whose records are read together, and whose encoded images are in memory together."""


OpenedBefore = dict[tuple[str, str, int, int], PairSource]
"""Name, settings, window and length of runs -> the source."""


def open_sources(
    configs: Mapping[str, SourceConfig],
    order: OrderConfig | None = None,
    corrupt_samples: CorruptSampleConfig | None = None,
    opened: OpenedBefore | None = None,
) -> list[PairSource]:
    """The configured sources, in the order of the configuration.

    Args:
        configs: Name -> settings.
        order: In which their samples will be read; `None`: any.
        corrupt_samples: Limit of samples that opening may leave out; `None`: no limit.
        opened: Sources that were opened before, of which those with the same settings are used again; this call adds
            its own.

    Raises:
        DataError: A source cannot be opened, too much of it is left out, or `check_source` finds that it cannot be
            what the settings say.
    """
    order, known = order or OrderConfig(), {} if opened is None else opened
    sources = []
    for name, config in configs.items():
        key = name, repr(config), order.shuffle_window, order.run_length
        if key not in known:
            known[key] = open_source(name, config, order.shuffle_window, order.run_length)
            check_source(known[key], config)
        sources.append(known[key])
        if corrupt_samples is not None:
            _check_opening(known[key], corrupt_samples.max_share)
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


class BatchWriter(Protocol[Batch_co]):
    """A batch that is being filled, sample by sample, in its own memory.

    A sample is made in two parts, each of which is run for many samples in turn: what is short runs several times
    faster when it does not alternate with decoding, which takes up the processor's caches.
    """

    def sample(self, place: int, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> None:
        """Make the random choices of the sample at this place, from its stream, and read the header of its image.

        `repairs` receives the kinds of `faults.REPAIRED` that are applied. After a fault in either part, another record
        is given for the same place.

        Raises:
            SampleFault: The record cannot be used.
        """

    def write(self, place: int) -> None:
        """Decode the image of the sample at this place and write its pixels.

        Raises:
            SampleFault: The record cannot be used.
        """

    def finish(self, ids: Tensor, seeds: Tensor, faults: list[FaultReport]) -> Batch_co:
        """The batch, when every place is filled, with these `sample_ids`, `sample_seeds` and `faults`."""


@dataclass(slots=True)
class _Attempt:
    """A record for a place of a batch, and what became of it."""

    place: int
    draw: Draw
    source: PairSource
    index: int
    """Of the record in its source."""
    found: PairRecord | SampleFault
    generator: np.random.Generator
    repairs: list[str] = field(default_factory=list)
    fault: SampleFault | None = None

    def sample(self, batch: BatchWriter[Any]) -> None:
        """The first part of making the sample."""
        if isinstance(self.found, SampleFault):
            self.fault = self.found
            return
        try:
            with sample_errors(self.found.key):
                batch.sample(self.place, self.found, self.generator, self.repairs)
        except SampleFault as fault:
            self.fault = fault

    def write(self, batch: BatchWriter[Any]) -> None:
        """The second part, unless the first found a fault."""
        if self.fault is not None or isinstance(self.found, SampleFault):
            return
        try:
            with sample_errors(self.found.key):
                batch.write(self.place)
        except SampleFault as fault:
            self.fault = fault

    def reports(self) -> list[FaultReport]:
        """The fault, or else the repairs; none if the row is no pair in its language."""
        if self.fault is not None and self.fault.kind in ABSENT:
            return []
        if self.fault is not None:
            return [self._report(self.fault.kind, self.fault.key, self.fault.detail)]
        assert isinstance(self.found, PairRecord)
        return [self._report(kind, self.found.key, "repaired") for kind in (*self.repairs, *self.found.repairs)]

    def _report(self, kind: str, key: str, detail: str) -> FaultReport:
        draw = self.draw
        return FaultReport(kind, self.source.name, printable(key), draw.sample_id, draw.step, printable(detail))


class PairDataset(Dataset[Batch], Generic[Batch]):
    """All sources behind one id space; a list of draws becomes a batch.

    A corrupt sample is replaced by the one 1, then 3, 6, 11, 20, ... (2^n + n) places behind it in its source (modulo
    its length), of the same language if the batch has a single one. The replacement has the random stream of its own
    id, so it looks the same in every run.

    Args:
        sources: In the order of their ids.
        new_batch: Number of samples -> an empty batch.
        seed: The run's seed.
    """

    def __init__(
        self, sources: Sequence[PairSource], new_batch: Callable[[int], BatchWriter[Batch]], seed: int
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self._new_batch = new_batch
        self._ends = np.cumsum([len(source) for source in self.sources])

    def locate(self, sample_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Number of the source with each id, and the sample's index in it."""
        ids = np.array(sample_ids, dtype=np.int64)
        numbers = np.searchsorted(self._ends, ids, side="right")
        indices = ids - np.append(0, self._ends)[numbers]
        return list(zip(numbers.tolist(), indices.tolist(), strict=True))

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """What a `DataLoader` calls with the draws of a whole batch; the reads for a later batch begin first."""
        if isinstance(draws, PlannedDraws) and draws.ahead:
            self.prefetch(draws.ahead)
        return self.load(draws)

    def prefetch(self, sample_ids: Sequence[int]) -> None:
        """Begin to read these samples, of the sources that can."""
        by_source: dict[int, list[int]] = {}
        for number, index in self.locate(sample_ids):
            by_source.setdefault(number, []).append(index)
        for number, indices in by_source.items():
            if self.sources[number].reads_ahead:
                self.sources[number].prefetch(indices)

    def load(self, draws: Sequence[Draw]) -> Batch:
        """The batch of these draws, or of their replacements.

        Raises:
            DataError: No replacement of a sample can be used either.
        """
        batch, used, faults = self._new_batch(len(draws)), list[Draw](), list[FaultReport]()
        for first in range(0, len(draws), _SAMPLES_AT_A_TIME):
            attempts = self._attempts(draws[first : first + _SAMPLES_AT_A_TIME], first)
            for attempt in attempts:
                attempt.sample(batch)
            for attempt in attempts:
                attempt.write(batch)
                draw, found = self._completed(batch, attempt)
                used.append(draw)
                faults += found
        ids = torch.tensor([draw.sample_id for draw in used])
        return batch.finish(ids, torch.from_numpy(model_seeds(self.seed, used)), faults)

    def _attempts(self, draws: Sequence[Draw], first_place: int) -> list[_Attempt]:
        """The records of these draws, those of one source read together, with their streams."""
        located = self.locate([draw.sample_id for draw in draws])
        found: dict[int, PairRecord | SampleFault] = {}
        for number in sorted({number for number, _ in located}):
            places = [place for place, (source, _) in enumerate(located) if source == number]
            records = self.sources[number].records([located[place][1] for place in places])
            found.update(zip(places, records, strict=True))
        generators = sample_generators(self.seed, draws)
        return [
            _Attempt(first_place + place, draw, self.sources[number], index, found[place], generator)
            for place, (draw, (number, index), generator) in enumerate(zip(draws, located, generators, strict=True))
        ]

    def _completed(self, batch: BatchWriter[Batch], attempt: _Attempt) -> tuple[Draw, list[FaultReport]]:
        """The draw that fills the place of an attempt, its own or a replacement, and all faults and repairs until then.

        Raises:
            DataError: No replacement can be used.
        """
        faults = attempt.reports()
        if attempt.fault is None:
            return attempt.draw, faults
        last = attempt.fault
        for replacement in self._replacements(attempt):
            replacement.sample(batch)
            replacement.write(batch)
            faults += replacement.reports()
            if replacement.fault is None:
                return replacement.draw, faults
            last = replacement.fault
        raise DataError(
            f"source '{attempt.source.name}': sample {attempt.draw.sample_id} and {MAX_REPLACEMENTS} others cannot be "
            f"used, the last one ({last.key}) because of {last.kind} ({last.detail}); fix or leave out the source"
        )

    def _replacements(self, attempt: _Attempt) -> Iterator[_Attempt]:
        """The samples that replace one, in their order, those of another language left out."""
        place, draw, source, index = attempt.place, attempt.draw, attempt.source, attempt.index
        for number in range(MAX_REPLACEMENTS):
            other = (index + (1 << number) + number) % len(source)
            (found,) = source.records([other])
            if isinstance(found, SampleFault) or draw.language in (None, found.language):
                replacement = Draw(draw.step, draw.sample_id - index + other, draw.language)
                (generator,) = sample_generators(self.seed, [replacement])
                yield _Attempt(place, replacement, source, other, found, generator)


class UncutBatchWriter:
    """A batch whose crops the device cuts.

    Args:
        writer: Fills the rest of the batch, and writes images to `pixels`.
        pixels: Receives them.
        fields: Fields of the batch for the crops, in the order of their distributions.
    """

    def __init__(self, writer: BatchWriter[Any], pixels: UncutWriter, fields: Sequence[str]) -> None:
        self._writer, self._pixels, self._fields = writer, pixels, fields

    def sample(self, place: int, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> None:
        self._writer.sample(place, record, generator, repairs)

    def write(self, place: int) -> None:
        self._writer.write(place)

    def finish(self, ids: Tensor, seeds: Tensor, faults: list[FaultReport]) -> UncutBatch:
        """The batch with the pixels of its images."""
        return self._pixels.finish(self._writer.finish(ids, seeds, faults), self._fields)


def build_loader(
    dataset: PairDataset[Batch],
    sampler: RankBatchSampler,
    num_workers: int,
    prefetch_factor: int = MAX_BATCHES_PER_WORKER,
) -> SignalSafeDataLoader:
    """A loader that serves the sampler's batches in order, for any number of workers.

    A worker that dies or hangs ends the run with an error. Workers ignore stop signals and end with this process.
    """
    return build_fixed_loader(
        dataset, sampler, _whole, num_workers, prefetch_factor=prefetch_factor, pin_memory=torch.cuda.is_available()
    )


def _whole(batch: Batch) -> Batch:
    """The collation of a dataset that makes whole batches."""
    return batch


def steps_to_read_ahead(sources: Sequence[PairSource], config: ImageDataConfig | ImageTextDataConfig) -> int:
    """How many steps before its own a batch is told to the loader processes; 0 unless a source gains from it.

    With a `shuffle_window` a whole window, since the first batches of a window touch all its runs; else the next batch
    of the same loader process.
    """
    if not any(source.reads_ahead for source in sources):
        return 0
    window = config.order.shuffle_window
    return -(-window // config.global_batch_size) if window else max(1, config.num_workers)


class StageDataModule(pl.LightningDataModule):
    """A data module with one integer as its state: the number of finished optimizer steps."""

    def __init__(self, *, seed: int, max_steps: int, resize_on_device: bool = False) -> None:
        super().__init__()
        self.seed = seed
        self.max_steps = max_steps
        self.resize_on_device = resize_on_device
        self.start_step = 0

    def build_sampler(self, order: Order, steps_ahead: int = 0) -> RankBatchSampler:
        """This rank's part of every remaining global batch; `steps_ahead` as in `RankBatchSampler`."""
        trainer = self.trainer
        return RankBatchSampler(
            order,
            start_step=self.start_step,
            max_steps=self.max_steps,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            steps_ahead=steps_ahead,
        )

    def cuts_on_device(self) -> bool:
        """Whether the trainer's device cuts the crops: as `resize_on_device` says, unless the device is a CPU."""
        if not self.resize_on_device or self.trainer is None:
            return False
        if self.trainer.strategy.root_device.type == "cpu":
            _log.info("data.resize_on_device = true has no effect: the device is a CPU, on which the loader resizes")
            return False
        return True

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Cuts the crops of a batch that the loader left to the device; Lightning calls it."""
        return cut(batch) if isinstance(batch, UncutBatch) else batch

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
