"""Samples per CPU second of the data path, beside its upper bound and open_clip's loader.

One process, one thread, generated JPEGs (quality 90, 4:3, several octaves of noise) in tar shards:
(a) libjpeg-turbo decodes the same files and nothing else; (bound) the same, and each crop cut and resized by the
fastest bicubic kernel with antialiasing: no loader can be faster; (b) our loader with 1 crop of 224, with 2 + 4 of 96,
with 1 crop that is left to the device of the model, and with 1 crop from shards of undecoded pixels; (c)
`get_wds_dataset` of open_clip_torch with its default training transform. The kinds run in turn, `repeats` times, and
the best of each is shown.
"""

import importlib.util
import io
import json
import math
import tarfile
import tempfile
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_modules.config import ImageTextDataConfig
from data_modules.config_roles import at_least, check_ranges
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.images.decoding import WHITE, decode_image, open_image
from data_modules.images.planes import encode_planes
from data_modules.images.transforms.crops import (
    Crop,
    CropDistribution,
    SampledCrops,
    empty_crops,
    slots_by_image,
    write_crops,
)
from data_modules.sources.config import SourceConfig
from data_modules.text.config import TokenizerConfig
from kelip_lightning.benchmarks.processes import Progress, in_fresh_process
from kelip_lightning.benchmarks.writing import write_benchmark
from kelip_lightning.drawing.charts import ChartRow
from kelip_lightning.errors import BenchmarkError

BATCH, NUM_SHARDS = 64, 4
NUM_IMAGES = {256: 384, 512: 192, 1024: 64}
ONE_CROP = MultiCropConfig(num_global_crops=1, num_local_crops=0, global_scale_min=0.9)
"""open_clip's default: one crop of 90 to 100 % of the image."""
SIX_CROPS = MultiCropConfig(num_global_crops=2, num_local_crops=4)


RAW, BOUND, ONE, SIX, DEVICE, PLANES, PEER = "raw", "bound", "one", "six", "device", "planes", "peer"
NAMES = {
    RAW: "(a) libjpeg-turbo alone",
    BOUND: "bound: decode, cut, resize",
    ONE: "(b) ours, 1 crop",
    SIX: "(b) ours, 2 + 4 crops",
    DEVICE: "(b) ours, 1 crop that the device cuts",
    PLANES: "(b) ours, 1 crop, YUV420 shards",
    PEER: "(c) open_clip's loader, 1 crop",
}
MEMORY_SIDE, MEMORY_EPOCHS = 256, 3
"""Images and epochs over which the memory of a loader process is measured."""
INSTALL_DECODER = "simplejpeg is not installed, which decodes alone; install it with pip install simplejpeg"
INSTALL_PEER = (
    "open_clip_torch or webdataset is not installed, so open_clip's loader is left out; install both with "
    "pip install open_clip_torch webdataset"
)


@dataclass(kw_only=True, slots=True)
class DataSetting:
    """What is read."""

    sizes: list[int] = field(default_factory=lambda: list(NUM_IMAGES))
    """Short sides in pixels, each one of those in `NUM_IMAGES`."""
    repeats: int = field(default=3, metadata=at_least(1))
    """Times that each kind runs."""
    batches: int | None = field(default=None, metadata=at_least(1))
    """Batches of images of each size; null: `NUM_IMAGES`."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if unknown := sorted(set(self.sizes) - set(NUM_IMAGES)):
            raise ValueError(f"sizes = {unknown[0]} must be one of {', '.join(map(str, NUM_IMAGES))}")

    def num_images(self, side: int) -> int:
        """Images of a size, a multiple of the batch."""
        return NUM_IMAGES[side] if self.batches is None else BATCH * self.batches


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRates:
    """The rates of one image size."""

    side: int
    """Short side in pixels."""
    kilobytes: float
    """Mean size of a file."""
    samples_per_second: dict[str, float]
    """Kind -> samples per CPU second."""
    worker_megabytes: list[int]
    """Private memory of our loader's process after each epoch; empty where it was not measured."""


def run_data_benchmark(setting: DataSetting, progress: Progress) -> list[DataRates]:
    """Measure every size in a process of one thread.

    Raises:
        BenchmarkError: simplejpeg is not installed, or a process died.
    """
    if importlib.util.find_spec("simplejpeg") is None:
        raise BenchmarkError(INSTALL_DECODER)
    if not has_peer():
        progress(INSTALL_PEER)
    found = []
    for side in setting.sizes:
        found.append(in_fresh_process(1, measure, side, setting))
        rates = ", ".join(f"{kind} {rate:.0f}" for kind, rate in found[-1].samples_per_second.items())
        progress(f"{side} px: {rates} samples per CPU second")
    return found


def has_peer() -> bool:
    """Whether open_clip's loader can run."""
    return all(importlib.util.find_spec(name) for name in ("open_clip", "open_clip_train", "webdataset"))


def photo(side: int, seed: int) -> bytes:
    """A JPEG with a short side of `side` pixels that compresses about as a photograph does."""
    generator = np.random.default_rng(seed)
    size = (side * 4 // 3, side)
    pixels = np.full((side, size[0], 3), 128.0)
    for octave in range(2, 9):
        cells = generator.normal(size=(2**octave, 2**octave, 3)) * 70 / octave**1.2
        grid = np.clip(128 + cells, 0, 255).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC), dtype=float) - 128
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(folder: Path, images: Sequence[bytes], ending: str) -> None:
    """Write shards of pairs of these image files, which have this ending."""
    folder.mkdir(exist_ok=True)
    for shard in range(NUM_SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for place in range(shard, len(images), NUM_SHARDS):
                for kind, content in ((ending, images[place]), ("txt", b"picture number %d" % place)):
                    member = tarfile.TarInfo(f"{place:09d}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    sizes = {f"{shard:05d}.tar": len(images) // NUM_SHARDS for shard in range(NUM_SHARDS)}
    (folder / "sizes.json").write_text(json.dumps(sizes))


class _UncutDataModule(ImageTextDataModule):
    """Leaves crops to the device as on a GPU, without a trainer."""

    def cuts_on_device(self) -> bool:
        return True


def our_loader(
    folder: Path,
    transform: MultiCropConfig,
    num_images: int,
    *,
    workers: int = 0,
    epochs: int = 1,
    on_device: bool = False,
) -> Any:
    """Our loader over `epochs` epochs; with `on_device` it decodes, and leaves the crops to the device."""
    source = SourceConfig(files=[str(folder / "*.tar")], caption_fields=["txt"], language="en")
    config = ImageTextDataConfig(sources={"shards": source}, global_batch_size=BATCH, num_workers=workers)
    steps = epochs * num_images // BATCH
    kind = _UncutDataModule if on_device else ImageTextDataModule
    return kind(config, transform, TokenizerConfig(vocab_size=300), seed=0, max_steps=steps).train_dataloader()


def peer_batches(folder: Path, num_images: int, workers: int = 0) -> Iterator[Any]:
    """One epoch of open_clip's loader."""
    from open_clip import SimpleTokenizer, image_transform
    from open_clip_train import data as peer

    # webdataset 1.0 ends a shard with an entry without a name, on which open_clip 3.3 fails.
    group = peer.group_by_keys_nothrow
    peer.group_by_keys_nothrow = lambda found, **options: group((one for one in found if "fname" in one), **options)
    arguments = Namespace(
        train_data=str(folder / f"{{00000..{NUM_SHARDS - 1:05d}}}.tar"),
        train_num_samples=num_images,
        dataset_resampled=False,
        train_data_upsampling_factors=None,
        seed=0,
        workers=workers,
        world_size=1,
        batch_size=BATCH,
    )
    transform = image_transform(224, is_train=True)
    try:
        dataset = peer.get_wds_dataset(arguments, transform, True, tokenizer=SimpleTokenizer())
        yield from dataset.dataloader
    finally:
        peer.group_by_keys_nothrow = group


def bound(images: list[bytes]) -> Iterator[Any]:
    """Decode, cut and resize: one crop of each image, of the middle of the scales of `ONE_CROP`."""
    (slots,) = slots_by_image(empty_crops([CropDistribution(1, ONE_CROP.image_size, 0.95, 0.95, 0.0)], 1))
    stream = np.random.default_rng(0)
    for encoded in map(open_image, images):
        side = math.sqrt(0.95)
        left, top = (1 - side) / 2 * encoded.width, (1 - side) / 2 * encoded.height
        box = (left, top, encoded.width - left, encoded.height - top)
        write_crops(SampledCrops(encoded, [Crop(box, ONE_CROP.image_size, flip=False)], WHITE, 1, stream), slots)
        yield slots


def rates(kinds: Mapping[str, Callable[[], Iterable[Any]]], number: int, repeats: int) -> dict[str, float]:
    """Samples per CPU second of each kind of iterable over `number` samples, best of `repeats`."""
    best = dict.fromkeys(kinds, float("inf"))
    for _ in range(repeats):
        for kind, make in kinds.items():
            best[kind] = min(best[kind], _processor_seconds(partial(deque, make(), maxlen=0)))
    return {kind: number / seconds for kind, seconds in best.items()}


def _processor_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def worker_megabytes(loader: Any, epochs: int) -> list[int]:
    """Private memory in MB of the loader's single worker after each epoch."""
    found, batches = [], iter(loader)
    for _ in range(epochs):
        for _ in range(len(loader) // epochs):
            next(batches)
        lines = Path(f"/proc/{batches._workers[0].pid}/smaps_rollup").read_text().splitlines()
        found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) // 1024)
    return found


def measure(side: int, setting: DataSetting) -> DataRates:
    """One image size, in this process."""
    import simplejpeg

    with tempfile.TemporaryDirectory() as place:
        folder, planes = Path(place) / "jpeg", Path(place) / "planes"
        images = [photo(side, seed) for seed in range(setting.num_images(side))]
        number = len(images)
        write_shards(folder, images, "jpg")
        write_shards(planes, [encode_planes(decode_image(image).convert("YCbCr")) for image in images], "yuv")
        kinds: dict[str, Callable[[], Iterable[Any]]] = {
            RAW: lambda: (simplejpeg.decode_jpeg(image, colorspace="RGB") for image in images),
            BOUND: lambda: bound(images),
            ONE: lambda: our_loader(folder, ONE_CROP, number),
            SIX: lambda: our_loader(folder, SIX_CROPS, number),
            DEVICE: lambda: our_loader(folder, ONE_CROP, number, on_device=True),
            PLANES: lambda: our_loader(planes, ONE_CROP, number),
        }
        if has_peer():
            kinds[PEER] = lambda: peer_batches(folder, number)
        found = rates(kinds, number, setting.repeats)
        memory: list[int] = []
        if side == MEMORY_SIDE and Path("/proc/self/smaps_rollup").is_file():
            loader = our_loader(folder, ONE_CROP, number, workers=1, epochs=MEMORY_EPOCHS)
            memory = worker_megabytes(loader, MEMORY_EPOCHS)
        kilobytes = sum(map(len, images)) / number / 1000
    return DataRates(side=side, kilobytes=kilobytes, samples_per_second=found, worker_megabytes=memory)


def write_data_report(setting: DataSetting, found: Sequence[DataRates], folder: Path) -> list[Path]:
    """Write data.json and data.png, the rates of each size; returns both."""
    rows = [
        ChartRow(label=f"{one.side} px, {NAMES[kind]}", value=rate, low=None, high=None)
        for one in found
        for kind, rate in one.samples_per_second.items()
    ]
    content = {"setting": asdict(setting), "sizes": [*map(asdict, found)]}
    return write_benchmark(folder, "data", content, rows, "Samples per CPU second")
