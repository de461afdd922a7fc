"""Shards of a store with a shuffle window: the same records in the same order, with a request for a run of samples."""

from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.loading import PairDataset, steps_to_read_ahead
from data_modules.order.sampling import BatchOrder, RankBatchSampler
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.tar_runs import Window, cache_bytes
from data_modules.sources.tar_source import TarSource
from tests.unit.data_modules.corpora import members, samples, write_tar

NUM = 120


class Counting:
    """Requests of the in-memory filesystem."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[str, int, int]] = []
        kind = type(fsspec.filesystem("memory"))
        really = kind.cat_file

        def cat_file(own: object, path: str, start: int = 0, end: int = 0, **options: object) -> bytes:
            self.reads.append((path, start, end))
            return bytes(really(own, path, start, end, **options))

        monkeypatch.setattr(kind, "cat_file", cat_file)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def config_of(folder: Path, place: str) -> SourceConfig:
    """Three shards of 40 samples, in a folder or in a store."""
    (folder / "local").mkdir(exist_ok=True)
    for number in range(3):
        content = members(samples(NUM // 3, start=number * NUM // 3))
        file = write_tar(folder / "local" / f"{number}.tar", content)
        fsspec.filesystem("memory").pipe_file(f"/runs/{number}.tar", file.read_bytes())
    files = f"{folder}/local/*.tar" if place == "local" else "memory://runs/*.tar"
    return SourceConfig(
        files=[files], caption_fields=["txt"], index_folder=str(folder), cache_folder=str(folder / "cache")
    )


def shuffled(window: int) -> BatchOrder:
    return BatchOrder((NUM,), (1.0,), 12, 0, shuffle_window=window, run_length=8)


@pytest.mark.parametrize("window", [0, 40, 48])
def test_records__are_those_of_the_local_shards(tmp_path: Path, window: int) -> None:
    local = open_source("s", config_of(tmp_path, "local"))
    store = open_source("s", config_of(tmp_path, "store"), window, 8)
    for step in range(10):
        ids = shuffled(window).batch(step).tolist()
        assert store.records(ids) == local.records(ids)


def test_records__a_run_is_one_request(tmp_path: Path, counting: Counting) -> None:
    source = open_source("s", config_of(tmp_path, "store"), 40, 8)
    counting.reads.clear()
    for step in range(10):
        assert not [one for one in source.records(shuffled(40).batch(step).tolist()) if isinstance(one, SampleFault)]
    assert len(counting.reads) == NUM / 8, "40 samples are 5 runs of 8, so no run lies in two shards"
    assert len(set(counting.reads)) == len(counting.reads)


def test_records__a_file_that_was_removed_is_read_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source("s", config_of(tmp_path, "store"), 40, 8)
    assert isinstance(source, TarSource)
    assert source._runs is not None
    require = source._runs.cache.require

    def removed(runs: list[object]) -> object:
        files = require(runs)  # type: ignore[arg-type]
        for file in files.values():
            file.unlink(missing_ok=True)  # type: ignore[union-attr]
        return files

    monkeypatch.setattr(source._runs.cache, "require", removed)
    local = open_source("s", config_of(tmp_path, "local"))
    assert source.records(range(24)) == local.records(range(24))


def test_prefetch__what_is_told_ahead_needs_no_request_later(tmp_path: Path, counting: Counting) -> None:
    for window in (0, 40):
        (tmp_path / str(window)).mkdir()
        source = open_source("s", config_of(tmp_path / str(window), "store"), window, 8)
        assert source.reads_ahead
        source.prefetch(range(16))
        before = source.records(range(16))
        counting.reads.clear()
        source.prefetch(range(16))
        assert source.records(range(16)) == before
        assert len(counting.reads) == (0 if window else 1), "without a window, bytes are not kept"


def test_dataset__batches_are_the_same_whether_they_were_told_ahead(tmp_path: Path) -> None:
    class Keys:
        def __init__(self, number: int) -> None:
            self.keys = [""] * number

        def sample(self, place: int, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> None:
            self.keys[place] = f"{record.key} {record.caption} {generator.integers(1 << 30)}"

        def write(self, place: int) -> None: ...

        def finish(self, *_: object) -> list[str]:
            return self.keys

    def batches(place: str, window: int) -> list[list[str]]:
        folder = tmp_path / f"{place}{window}"
        folder.mkdir()
        config = config_of(folder, place)
        source = open_source("s", config, window, 8)
        data = ImageTextDataConfig(
            sources={"s": config}, global_batch_size=12, order=OrderConfig(shuffle_window=window, run_length=8)
        )
        ahead = steps_to_read_ahead([source], data)
        assert ahead == (0 if place == "local" else 4 if window else 1)
        sampler = RankBatchSampler(
            shuffled(window), start_step=0, max_steps=20, rank=0, world_size=1, steps_ahead=ahead
        )
        dataset = PairDataset([source], Keys, seed=3)  # type: ignore[arg-type]
        return [dataset.__getitems__(draws) for draws in sampler]

    for window in (0, 40):
        assert batches("store", window) == batches("local", window)


def test_cache_bytes__two_and_a_half_windows_and_never_more_than_the_shards(tmp_path: Path) -> None:
    config = config_of(tmp_path, "local")
    index = TarSource("s", config).index
    whole, spare = sum(entry["size"] for entry in index.entries), 64 << 20
    small = cache_bytes(config, index, Window(samples=16, run_length=8)) - spare
    assert small == int(2.5 * 24 * whole / NUM)
    assert cache_bytes(config, index, Window(samples=10_000, run_length=8)) == whole + spare


def test_open_source__a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    message = r"order\.shuffle_window = 40 need 0\.1 GB in .*cache_folder to a larger local disk"
    with pytest.raises(DataError, match=message):
        open_source("s", config_of(tmp_path, "store"), 40, 8)
    assert len(open_source("s", config_of(tmp_path, "store"), 0, 8)) == NUM


def test_captions__of_a_store_are_those_of_the_local_shards_in_few_requests(tmp_path: Path, counting: Counting) -> None:
    local = open_source("s", config_of(tmp_path, "local"))
    store = open_source("s", config_of(tmp_path, "store"))
    for every in (1, 7):
        counting.reads.clear()
        assert list(store.captions(every)) == list(local.captions(every))
        assert len(counting.reads) == 3, "small neighbours are read together: one request for each shard"
