"""Samples per second from a store: our loader beside WebDataset's reader, with as many loader processes.

Both give encoded images with their captions in batches of 64, not decoded. WebDataset fetches whole shards in turn and
mixes what it has; ours gives the order of (seed, step), from ranges. With a shuffle window both read twice the window;
without one, ours alone, for a fixed time.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from torch import Tensor

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.config_roles import at_least, check_ranges
from data_modules.faults import FaultReport
from data_modules.loading import PairDataset, build_loader, steps_to_read_ahead
from data_modules.order.mixture import build_order
from data_modules.order.sampling import RankBatchSampler
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from kelip_lightning.benchmarks.processes import Progress, in_fresh_process
from kelip_lightning.benchmarks.store.server import BUCKET, INSTALL, Store, serving
from kelip_lightning.benchmarks.store.shards import SAMPLES_PER_SHARD, put_shards, shard_name
from kelip_lightning.benchmarks.writing import write_benchmark
from kelip_lightning.drawing.charts import ChartRow
from kelip_lightning.errors import BenchmarkError

BATCH = 64
OURS, PEER = "ours", "webdataset"


@dataclass(kw_only=True, slots=True)
class StoreSetting:
    """What is read."""

    delay_ms: int = field(default=30, metadata=at_least(0))
    """Milliseconds before each answer of the store."""
    image_kb: int = field(default=25, metadata=at_least(1))
    """Size of an image, in thousands of bytes."""
    shards: int = field(default=263, metadata=at_least(1))
    """Of 500 samples."""
    window: int = field(default=65_536, metadata=at_least(1))
    """`order.shuffle_window`, and WebDataset's shuffle buffer over all its processes."""
    workers: list[int] = field(default_factory=lambda: [1, 4])
    """Numbers of loader processes."""
    seconds: int = field(default=20, metadata=at_least(1))
    """Of a measurement without a window."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRate:
    """One measurement."""

    reader: str
    window: int
    """0: the whole epoch is shuffled."""
    workers: int
    samples_per_second: float
    gets_per_sample: float
    kilobytes_per_sample: float
    """Sent by the store."""
    faults: int
    """Samples that could not be read."""


def run_store_benchmark(setting: StoreSetting, progress: Progress) -> list[StoreRate]:
    """Measure every reader, window and number of processes, one after the other.

    Raises:
        BenchmarkError: moto, s3fs or webdataset is not installed, or a process died.
    """
    if any(importlib.util.find_spec(name) is None for name in ("moto", "s3fs")):
        raise BenchmarkError(INSTALL)
    with serving(setting.delay_ms / 1000) as store, tempfile.TemporaryDirectory() as folder:
        progress(f"writing {setting.shards} shards of {SAMPLES_PER_SHARD} x {setting.image_kb} kB")
        put_shards(store, setting.shards, 1000 * setting.image_kb)
        found = []
        cases = [(OURS, 0), (PEER, setting.window), (OURS, setting.window)]
        for workers in setting.workers:
            for reader, window in cases:
                progress(f"{reader}, {workers} loader processes, window {window:,}")
                found.append(measure(store, setting, reader, window, workers, Path(folder)))
    return found


def measure(store: Store, setting: StoreSetting, reader: str, window: int, workers: int, folder: Path) -> StoreRate:
    """One measurement, in a process of its own; the runs kept on disk by an earlier one are not used."""
    place = Path(tempfile.mkdtemp(dir=folder))
    store.counts()
    if reader == OURS:
        samples, seconds, faults = in_fresh_process(1, read_ours, store, setting, window, workers, place)
    else:
        samples, seconds, faults = in_fresh_process(1, read_webdataset, store, setting, window, workers)
    gets, sent = store.counts()
    return StoreRate(
        reader=reader,
        window=window,
        workers=workers,
        samples_per_second=samples / seconds,
        gets_per_sample=gets / samples,
        kilobytes_per_sample=sent / samples / 1000,
        faults=faults,
    )


class EncodedBatch:
    """A batch of encoded images and captions: the number of samples, and the faults."""

    def __init__(self, number: int) -> None:
        self._records: list[PairRecord | None] = [None] * number

    def sample(self, place: int, record: PairRecord, generator: object, repairs: list[str]) -> None:
        self._records[place] = record

    def write(self, place: int) -> None:
        """Nothing is decoded."""

    def finish(self, ids: Tensor, seeds: Tensor, faults: list[FaultReport]) -> tuple[int, int]:
        """The numbers of samples and of faults."""
        return sum(one is not None and bool(one.image and one.caption) for one in self._records), len(faults)


def source_config(setting: StoreSetting, folder: Path) -> SourceConfig:
    """The shards as a source."""
    last = shard_name(setting.shards - 1).removesuffix(".tar")[-5:]
    return SourceConfig(
        files=[f"s3://{BUCKET}/shards/{{00000..{last}}}.tar"],
        caption_fields=["txt"],
        language="ko",
        index_folder=str(folder.parent),  # shared by all measurements, and built by the first
        cache_folder=str(folder / "runs"),
    )


def read_ours(store: Store, setting: StoreSetting, window: int, workers: int, folder: Path) -> tuple[int, float, int]:
    """Samples, seconds and faults of our loader."""
    os.environ |= store.environment()
    fsspec.config.set_conf_env(fsspec.config.conf)  # read when fsspec was imported
    config = source_config(setting, folder)
    order_config = OrderConfig(shuffle_window=window)
    data = ImageTextDataConfig(
        sources={"store": config}, global_batch_size=BATCH, num_workers=workers, order=order_config
    )
    source = open_source("store", config, window, order_config.run_length)
    store.counts()  # without the index
    order = build_order([source], data.sources, BATCH, 0, order_config)
    sampler = RankBatchSampler(
        order,
        start_step=0,
        max_steps=len(source) // BATCH,
        rank=0,
        world_size=1,
        steps_ahead=steps_to_read_ahead([source], data),
    )
    loader: Iterable[Any] = build_loader(PairDataset([source], EncodedBatch, 0), sampler, workers)
    return _timed(loader, setting, window)


def read_webdataset(store: Store, setting: StoreSetting, window: int, workers: int) -> tuple[int, float, int]:
    """Samples, seconds and 0 of WebDataset's reader: shards in random order, a shuffle buffer, batches.

    Raises:
        BenchmarkError: webdataset is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise BenchmarkError("webdataset is not installed; install it with pip install webdataset") from error
    urls = [f"{store.url}/{BUCKET}/{shard_name(number)}" for number in range(setting.shards)]
    buffer = max(1, window // workers)
    dataset = webdataset.WebDataset(urls, shardshuffle=100, seed=0).shuffle(buffer, initial=min(buffer, 1000))
    loader = webdataset.WebLoader(
        dataset.to_tuple("jpg", "txt").batched(BATCH), batch_size=None, num_workers=workers, prefetch_factor=4
    )
    return _timed(((len(images), 0) for images, _ in loader), setting, window)


def _timed(batches: Iterable[tuple[int, int]], setting: StoreSetting, window: int) -> tuple[int, float, int]:
    """Samples, seconds and faults: of two windows, or without a window of a fixed time."""
    begun, samples, faults = time.monotonic(), 0, 0
    for number, failed in batches:
        samples, faults = samples + number, faults + failed
        seconds = time.monotonic() - begun
        if samples >= 2 * window if window else seconds > setting.seconds:
            break
    return samples, time.monotonic() - begun, faults


def write_store_report(setting: StoreSetting, rates: Sequence[StoreRate], folder: Path) -> list[Path]:
    """Write store.json and store.png; returns both."""
    rows = [
        ChartRow(
            label=f"{one.reader}, window {one.window:,}, {one.workers}",
            value=one.samples_per_second,
            low=None,
            high=None,
        )
        for one in rates
    ]
    title = f"Samples per second from a store with {setting.delay_ms} ms a request, by loader processes"
    return write_benchmark(folder, "store", {"setting": asdict(setting), "rates": [*map(asdict, rates)]}, rows, title)
