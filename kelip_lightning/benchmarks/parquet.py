"""Samples per CPU second of parquet files, read in place in random order, beside tar shards with the same images.

One process, local files, generated JPEGs with a short side of 256 (about 26 kB), each sample different. Columns:
(records) encoded images and captions, whose positions are known; (first time) the same where the index of the images is
made on the way; (batches) one crop decoded and resized, as in training. Each is the best of `--repeats`.

    python -m kelip_lightning.benchmarks.parquet
    python -m kelip_lightning.benchmarks.parquet --images 20000 --folder /scratch/benchmark
"""

import argparse
import contextlib
import io
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.config import ImageTextDataConfig
from data_modules.image_text import ImageTextDataModule
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.text.config import TokenizerConfig
from kelip_lightning.benchmarks.data import ONE_CROP, photo

_BATCH, _PER_SHARD, _PHOTOS, _SIDE = 64, 500, 200, 256
LAYOUTS: dict[str, dict[str, Any]] = {
    "row groups of 100, Snappy": {"row_group_size": 100},
    "row groups of 1,000, Snappy": {"row_group_size": 1000},
    "one row group, Snappy (pandas, pyarrow)": {},
    "row groups of 1,000, not compressed": {"row_group_size": 1000, "compression": "none"},
    "row groups of 1,000, pages of 64 kB, Snappy": {
        "row_group_size": 1000,
        "data_page_size": 64 << 10,
        "write_batch_size": 4,
    },
    "row groups of 100, zstd": {"row_group_size": 100, "compression": "zstd"},
}
"""What stands in the table -> options of `pyarrow.parquet.write_table`."""


class Rates(NamedTuple):
    """Samples per CPU second of one layout."""

    name: str
    first_time: float
    records: float
    batches: float


def write_tars(folder: Path, images: Sequence[bytes]) -> str:
    """Shards of 500 samples; returns their pattern."""
    for start in range(0, len(images), _PER_SHARD):
        with tarfile.open(folder / f"{start // _PER_SHARD:05d}.tar", "w") as archive:
            for place in range(start, min(start + _PER_SHARD, len(images))):
                for ending, content in (("jpg", images[place]), ("txt", _caption(place).encode())):
                    member = tarfile.TarInfo(f"{place:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return str(folder / "*.tar")


def write_parquet(folder: Path, images: Sequence[bytes], options: dict[str, Any]) -> str:
    """One file in a layout."""
    cells = [{"bytes": image, "path": f"{place}.jpg"} for place, image in enumerate(images)]
    table = pa.table({"image": cells, "txt": [_caption(place) for place in range(len(images))]})
    pq.write_table(table, folder / "all.parquet", **options)
    return str(folder / "all.parquet")


def _caption(place: int) -> str:
    return f"picture number {place} of a series"


def measure(name: str, files: str, repeats: int) -> Rates:
    """The rates of one layout in random order."""
    config = SourceConfig(files=[files], caption_fields=["txt"], language="en")
    source = open_source("all", config)
    order = np.random.default_rng(0).permutation(len(source))

    def read() -> None:
        for start in range(0, len(order), _BATCH):
            source.records(order[start : start + _BATCH].tolist())

    first = _processor_seconds(read)
    return Rates(
        name,
        len(order) / first,
        len(order) / min(_processor_seconds(read) for _ in range(repeats)),
        len(order) / min(_processor_seconds(_batches(config, len(order))) for _ in range(repeats)),
    )


def _batches(config: SourceConfig, number: int) -> Callable[[], None]:
    data = ImageTextDataConfig(sources={"all": config}, global_batch_size=_BATCH, num_workers=0)
    steps = max(1, number // _BATCH)
    loader = ImageTextDataModule(
        data, ONE_CROP, TokenizerConfig(vocab_size=300), seed=0, max_steps=steps
    ).train_dataloader()

    def run() -> None:
        for _ in loader:
            pass

    return run


def _processor_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def run(num_images: int, repeats: int, folder: Path) -> Iterator[Rates]:
    """The rates of tar shards first, then of every layout."""
    photos = [photo(_SIDE, seed) for seed in range(min(_PHOTOS, num_images))]
    # Decoders stop at the end of the image, so that what is behind it makes each sample another.
    images = [photos[place % len(photos)] + place.to_bytes(8, "little") for place in range(num_images)]
    writers: dict[str, Callable[[Path], str]] = {"tar shards of 500": lambda place: write_tars(place, images)}
    for name, options in LAYOUTS.items():
        writers[name] = lambda place, options=options: write_parquet(place, images, options)  # type: ignore[misc]
    for name, write in writers.items():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield measure(name, write(Path(place)), repeats)


def as_table(found: Sequence[Rates]) -> str:
    """A table in Markdown, with the share of the first layout's rate."""
    lines = ["| | first time | records | batches | batches / tar |", "|---|---:|---:|---:|---:|"]
    for one in found:
        share = one.batches / found[0].batches
        lines.append(f"| {one.name} | {one.first_time:,.0f} | {one.records:,.0f} | {one.batches:,.0f} | {share:.2f} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000, help="samples")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are written for the time of the benchmark")
    arguments = parser.parse_args(words)
    if arguments.images < _BATCH or arguments.repeats < 1:
        parser.error(f"--images must be at least {_BATCH}, and --repeats at least 1")
    found = []
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for one in run(arguments.images, arguments.repeats, folder):
            sys.stderr.write(f"{one.name}: {one.records:,.0f} records, {one.batches:,.0f} samples per CPU second\n")
            found.append(one)
    sys.stdout.write(as_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
