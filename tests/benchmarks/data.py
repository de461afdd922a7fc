"""`python -m tests.benchmarks.data`: samples per CPU second of the data path, beside its upper bound and open_clip.

One process, one thread, generated JPEGs (quality 90, 4:3, several octaves of noise) in tar shards:
(a) libjpeg-turbo decodes the same files and nothing else; (bound) the same, and each crop cut and resized by the
fastest bicubic kernel with antialiasing: no loader can be faster; (b) our loader with 1 crop of 224, and with 2 + 4 of
96; (c) `get_wds_dataset` of open_clip_torch with its default training transform. The kinds run in turn, `--repeats`
times, and the best of each is shown.
"""

import io
import json
import math
import tempfile
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from data_modules.config import ImageTextDataConfig
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.images.decoding import WHITE, open_image
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
from tests.benchmarks import seconds_of, single_threaded
from tests.unit.data_modules.corpora import write_tar

BATCH, NUM_SHARDS = 64, 4
NUM_IMAGES = {256: 384, 512: 192, 1024: 64}
ONE_CROP = MultiCropConfig(num_global_crops=1, num_local_crops=0, global_scale_min=0.9)
"""open_clip's default: one crop of 90 to 100 % of the image."""
SIX_CROPS = MultiCropConfig(num_global_crops=2, num_local_crops=4)


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


def write_shards(folder: Path, side: int) -> list[bytes]:
    """Write shards of generated pairs; returns the image files."""
    images = [photo(side, seed) for seed in range(NUM_IMAGES[side])]
    for shard in range(NUM_SHARDS):
        members = []
        for number in range(shard, len(images), NUM_SHARDS):
            members += [(f"{number:09d}.jpg", images[number]), (f"{number:09d}.txt", b"picture number %d" % number)]
        write_tar(folder / f"{shard:05d}.tar", members)
    sizes = {f"{shard:05d}.tar": len(images) // NUM_SHARDS for shard in range(NUM_SHARDS)}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return images


def our_loader(folder: Path, transform: MultiCropConfig, num_images: int, workers: int = 0, epochs: int = 1) -> Any:
    """Our loader over `epochs` epochs."""
    source = SourceConfig(files=[str(folder / "*.tar")], caption_fields=["txt"], language="en")
    config = ImageTextDataConfig(sources={"shards": source}, global_batch_size=BATCH, num_workers=workers)
    steps = epochs * num_images // BATCH
    data = ImageTextDataModule(config, transform, TokenizerConfig(vocab_size=300), seed=0, max_steps=steps)
    return data.train_dataloader()


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
        yield write_crops(SampledCrops(encoded, [Crop(box, ONE_CROP.image_size, flip=False)], WHITE, 1, stream), slots)


def rates(kinds: Mapping[str, Callable[[], Iterable[Any]]], number: int, repeats: int) -> dict[str, float]:
    """Samples per CPU second of each kind of iterable over `number` samples, best of `repeats`."""
    best = dict.fromkeys(kinds, float("inf"))
    for _ in range(repeats):
        for kind, make in kinds.items():
            best[kind] = min(best[kind], seconds_of(partial(deque, make(), maxlen=0)))
    return {kind: number / seconds for kind, seconds in best.items()}


def worker_megabytes(loader: Any, epochs: int) -> list[int]:
    """Private memory in MB of the loader's single worker after each epoch."""
    found, batches = [], iter(loader)
    for _ in range(epochs):
        for _ in range(len(loader) // epochs):
            next(batches)
        lines = Path(f"/proc/{batches._workers[0].pid}/smaps_rollup").read_text().splitlines()
        found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) // 1024)
    return found


def measure(side: int, repeats: int) -> None:
    """Print the row of one image size."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images = write_shards(folder, side)
        number = len(images)
        kilobytes = sum(map(len, images)) / number / 1000
        kinds: dict[str, Callable[[], Iterable[Any]]] = {
            "raw": lambda: (simplejpeg.decode_jpeg(image, colorspace="RGB") for image in images),
            "bound": lambda: bound(images),
            "one": lambda: our_loader(folder, ONE_CROP, number),
            "six": lambda: our_loader(folder, SIX_CROPS, number),
            "peer": lambda: peer_batches(folder, number),
        }
        found = rates(kinds, number, repeats)
        raw, most, one, six, peer = (found[kind] for kind in kinds)
        print(
            f"{side:>5} px {kilobytes:6.0f} kB | {raw:8.0f} | {most:7.0f} {most / raw:5.2f} | "
            f"{one:8.0f} {one / raw:6.2f} {one / most:6.2f} {one / peer:6.2f} | {six:8.0f} {one / six:6.2f} | "
            f"{peer:8.0f}",
            flush=True,
        )
        if side == 256:
            ours = worker_megabytes(our_loader(folder, ONE_CROP, number, workers=1, epochs=3), 3)
            print(f"         private memory of our worker after epochs 1, 2, 3: {ours} MB", flush=True)


def main() -> None:
    """Measure every size."""
    parser = single_threaded(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(NUM_IMAGES), choices=list(NUM_IMAGES))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("samples per CPU second")
    print(
        "short side, file  | (a) raw  | bound    /a   | (b) 1 crop  /a  /bound   /c  | (b) 2+4 1/(2+4) | (c) open_clip"
    )
    for side in arguments.sizes:
        measure(side, arguments.repeats)


if __name__ == "__main__":
    main()
