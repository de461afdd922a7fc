"""A loader process at the scale of the paper, its reads replaced by a model of a store.

`python -m kelip_lightning.benchmarks.store.simulation` prints samples per second of one loader process of one rank:
1.2 billion samples in 120,000 shards, the real order, index look-ups, requests and records; each read waits for a
stated latency and the bytes for a stated bandwidth. Nothing is decoded, and no byte is stored.
"""

import argparse
import asyncio
import contextlib
import io
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from fsspec.asyn import AsyncFileSystem
from numpy.typing import NDArray

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.loading import PairDataset, steps_to_read_ahead
from data_modules.order.mixture import build_order
from data_modules.order.sampling import RankBatchSampler
from data_modules.sources.config import SourceConfig
from data_modules.sources.tar_index import ShardIndex
from data_modules.sources.tar_runs import Window
from data_modules.sources.tar_scan import BLOCK, ROW_FIELDS
from data_modules.sources.tar_source import TarSource
from kelip_lightning.benchmarks.store.benchmark import EncodedBatch

IMAGE_BYTES, TEXT_BYTES = 28_700, 60
_PROTOCOL = "model"


class _Model:
    """The store: what it waits for, and what was asked of it."""

    latency = 0.03
    """Seconds."""
    bandwidth = 1e9
    """Bytes per second of this process."""
    period = b""
    """The bytes of one sample; every shard repeats them."""
    gets = 0
    sent = 0


class ModelStore(AsyncFileSystem):  # type: ignore[misc]
    """Shards of equal samples."""

    protocol = _PROTOCOL
    cachable = False

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        first, last = start or 0, end or 0
        _Model.gets += 1
        _Model.sent += last - first
        await asyncio.sleep(_Model.latency + (last - first) / _Model.bandwidth)
        size = len(_Model.period)
        repeated = _Model.period * (-(-(last - first) // size) + 1)
        return repeated[first % size : first % size + last - first]


class _Shards(Sequence[str]):
    """Names of shards, made when they are asked for."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(self._number))]
        if place >= self._number:
            raise IndexError(place)
        return f"{_PROTOCOL}://shards/{place:06d}.tar"


class _Entries(Sequence[dict[str, Any]]):
    """Descriptions of shards, made when they are asked for."""

    def __init__(self, number: int, samples: int, size: int) -> None:
        self._number, self._entry = number, {"version": "", "samples": samples, "size": size, "faults": []}

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._entry] * len(range(*place.indices(self._number)))
        if place >= self._number:
            raise IndexError(place)
        return self._entry


class ModelIndex(ShardIndex):
    """The index of shards of equal samples: rows are computed, where a real one reads 24 bytes each."""

    def __init__(self, num_shards: int, samples_per_shard: int) -> None:
        self.file = Path("model.index")
        self._per_shard, self._num_rows = samples_per_shard, num_shards * samples_per_shard
        self.shards = _Shards(num_shards)  # type: ignore[assignment]
        self.entries = _Entries(num_shards, samples_per_shard, samples_per_shard * len(_Model.period))  # type: ignore[assignment]

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        rows = np.zeros((len(numbers), ROW_FIELDS), dtype=np.uint32)
        blocks, text = len(_Model.period) // BLOCK, 1 + -(-IMAGE_BYTES // BLOCK)
        rows[:, 0], rows[:, 1] = (numbers % self._per_shard) * blocks, IMAGE_BYTES
        rows[:, 2], rows[:, 3] = rows[:, 0] + text, TEXT_BYTES
        return rows

    def shards_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers // self._per_shard


def _period() -> bytes:
    """One sample in a tar."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for ending, size in (("jpg", IMAGE_BYTES), ("txt", TEXT_BYTES)):
            info = tarfile.TarInfo(f"000000000.{ending}")
            info.size = size
            archive.addfile(info, io.BytesIO(b"a" * size))
    used = sum(BLOCK + -(-size // BLOCK) * BLOCK for size in (IMAGE_BYTES, TEXT_BYTES))
    return content.getvalue()[:used]


def simulate(arguments: argparse.Namespace) -> str:
    """One line: samples per second, requests and bytes of one loader process."""
    fsspec.register_implementation(_PROTOCOL, ModelStore, clobber=True)
    _Model.latency, _Model.bandwidth = arguments.latency_ms / 1000, arguments.megabytes_per_second * 1e6
    _Model.period, _Model.gets, _Model.sent = _period(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        config = SourceConfig(
            files=[f"{_PROTOCOL}://shards/*.tar"], caption_fields=["txt"], language="ko", cache_folder=folder
        )
        order_config = OrderConfig(shuffle_window=arguments.window, groups=arguments.groups if arguments.window else 1)
        data = ImageTextDataConfig(
            sources={"model": config}, global_batch_size=arguments.batch, num_workers=1, order=order_config
        )
        window = Window(samples=arguments.window // arguments.groups, run_length=order_config.run_length)
        source = TarSource("model", config, window=window, index=ModelIndex(arguments.shards, 10_000))
        sampler = RankBatchSampler(
            build_order([source], data.sources, arguments.batch, 0, order_config),
            start_step=36_000,
            max_steps=36_000 + 10_000,
            rank=0,
            world_size=arguments.gpus,
            steps_ahead=steps_to_read_ahead([source], data),
        )
        dataset = PairDataset([source], EncodedBatch, 0)
        samples, begun = 0, time.monotonic()
        with contextlib.closing(source):  # before the folder is removed
            for draws in sampler:
                samples += dataset.__getitems__(draws)[0]
                if time.monotonic() - begun > arguments.seconds:
                    break
            seconds = time.monotonic() - begun
    return (
        f"{samples / seconds:,.0f} samples/s, {_Model.gets / samples:.3f} GETs and {_Model.sent / samples / 1000:.1f} "
        f"kB a sample ({samples:,} samples in {seconds:.1f} s; {len(source):,} in the source)"
    )


def main() -> None:
    """Parse, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {
        "gpus": (80, "ranks; one loader process of the first is simulated"),
        "batch": (32_640, "global_batch_size"),
        "window": (0, "order.shuffle_window"),
        "groups": (10, "order.groups, with a window"),
        "shards": (118_400, "of 10,000 samples"),
        "latency-ms": (30, "of a request"),
        "megabytes-per-second": (200, "of this process"),
        "seconds": (20, "of the measurement"),
    }
    for name, (default, meaning) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default: {default})")
    print(simulate(parser.parse_args()))  # noqa: T201  # a command of its own


if __name__ == "__main__":
    main()
