"""Shards in a real S3 protocol: requests, delays, a store that is gone, errors, shards that are not there."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="moto is not installed (pip install 'kelip-lightning[store]')")
pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'kelip-lightning[store]')")

import fsspec

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.loading import PairDataset, build_loader, steps_to_read_ahead
from data_modules.order.mixture import build_order
from data_modules.order.sampling import RankBatchSampler
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource
from kelip_lightning.benchmarks.store.server import BUCKET, Faults, Store, serving
from kelip_lightning.benchmarks.store.shards import SAMPLES_PER_SHARD, put_shards

pytestmark = pytest.mark.cluster

NUM_SHARDS, BATCH, WINDOW = 4, 50, 500
NUM = NUM_SHARDS * SAMPLES_PER_SHARD


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Four shards of 500 samples, 20 ms a request."""
    before, conf = dict(os.environ), dict(fsspec.config.conf)
    with serving(0.02) as running:
        os.environ |= running.environment()
        fsspec.config.set_conf_env(fsspec.config.conf)
        put_shards(running, NUM_SHARDS, image_bytes=3000)
        yield running
    os.environ.clear()
    os.environ |= before
    fsspec.config.conf.clear()
    fsspec.config.conf.update(conf)


class Digests:
    """A batch as the digests of its samples."""

    def __init__(self, number: int) -> None:
        self._digests = [""] * number

    def sample(self, place: int, record: PairRecord, generator: Any, repairs: list[str]) -> None:
        content = record.image + record.caption.encode()
        self._digests[place] = f"{record.key} {hashlib.sha256(content).hexdigest()}"

    def write(self, place: int) -> None: ...

    def finish(self, ids: Any, seeds: Any, faults: list[Any]) -> tuple[list[int], list[str], int]:
        return ids.tolist(), self._digests, len(faults)


def open_shards(folder: Path, window: int, **settings: Any) -> tuple[PairSource, ImageTextDataConfig]:
    config = SourceConfig(
        files=[f"s3://{BUCKET}/shards/{{00000..{NUM_SHARDS - 1:05d}}}.tar"],
        caption_fields=["txt"],
        language="ko",
        index_folder=str(folder),
        cache_folder=str(folder / "runs"),
        **settings,
    )
    order = OrderConfig(shuffle_window=window)
    data = ImageTextDataConfig(sources={"s": config}, global_batch_size=BATCH, num_workers=2, order=order)
    return open_source("s", config, window, order.run_length), data


Batch = tuple[list[int], list[str], int]
"""Ids, digests, number of faults."""


def epoch(source: PairSource, data: ImageTextDataConfig, workers: int = 2) -> Iterator[Batch]:
    """The batches of an epoch."""
    data = replace(data, num_workers=workers)
    order = build_order([source], data.sources, BATCH, 0, data.order)
    ahead = steps_to_read_ahead([source], data)
    sampler = RankBatchSampler(order, start_step=0, max_steps=NUM // BATCH, rank=0, world_size=1, steps_ahead=ahead)
    dataset: PairDataset[Any] = PairDataset([source], Digests, 0)
    yield from build_loader(dataset, sampler, workers)


def assert_whole(batches: list[Batch]) -> None:
    """Every sample once, none replaced, none changed."""
    assert sum(faults for _, _, faults in batches) == 0
    assert sorted(one for ids, _, _ in batches for one in ids) == list(range(NUM))
    keys = sorted(digest.split()[0] for _, digests, _ in batches for digest in digests)
    assert keys == [f"{shard:05d}{place:04d}" for shard in range(NUM_SHARDS) for place in range(SAMPLES_PER_SHARD)]


@pytest.mark.parametrize("window", [0, WINDOW])
def test_epoch__every_sample_once_in_the_same_order_for_any_number_of_workers(
    store: Store, tmp_path: Path, window: int
) -> None:
    source, data = open_shards(tmp_path, window)
    store.counts()
    one = list(epoch(source, data, workers=1))
    gets, _ = store.counts()
    assert_whole(one)
    assert gets / NUM <= (0.1 if window else 1.0)
    assert list(epoch(source, data, workers=3)) == one


@pytest.mark.parametrize("window", [0, WINDOW])
def test_epoch__a_store_that_is_gone_for_five_seconds_costs_no_sample(
    store: Store, tmp_path: Path, window: int
) -> None:
    source, data = open_shards(tmp_path, window)
    batches = epoch(source, data)
    found = [next(batches)]
    timer = threading.Timer(0.1, store.fail, [Faults(down_seconds=5.0)])
    timer.start()
    found += batches
    timer.join()
    store.fail(Faults())
    assert_whole(found)


@pytest.mark.parametrize("window", [0, WINDOW])
def test_epoch__errors_for_one_request_of_a_hundred_cost_no_sample(store: Store, tmp_path: Path, window: int) -> None:
    source, data = open_shards(tmp_path, window)
    store.fail(Faults(error_share=0.01 if not window else 0.1))
    try:
        assert_whole(list(epoch(source, data)))
    finally:
        store.fail(Faults())


@pytest.mark.usefixtures("store")
def test_reads__wait_for_the_store_at_the_same_time(tmp_path: Path) -> None:
    source, _ = open_shards(tmp_path, 0)
    places = range(0, NUM, 40)  # further apart than what is merged
    together = []
    for _ in range(3):  # other tests may have the processor for a moment; what waits in turn never is as fast
        begun = time.monotonic()
        source.records(places)
        together.append(time.monotonic() - begun)
    assert min(together) < 0.5 * len(places) * 0.02, "one after the other they wait 20 ms each"


@pytest.mark.usefixtures("store")
def test_missing_shard__is_refused_by_name(tmp_path: Path) -> None:
    config = SourceConfig(
        files=[f"s3://{BUCKET}/shards/{{00003..00004}}.tar"], caption_fields=["txt"], index_folder=str(tmp_path)
    )
    with pytest.raises(DataError, match=r"s3://data/shards/00004\.tar does not exist"):
        open_source("s", config)
