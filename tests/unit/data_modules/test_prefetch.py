"""Memory of batches that are made ahead: the limit, the check of /dev/shm, and what a loader really takes."""

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from data_modules.config import ImageDataConfig
from data_modules.errors import DataError
from data_modules.image import ImageDataModule
from data_modules.images.config import MaskedImageConfig, MultiCropConfig
from data_modules.prefetch import (
    batches_per_worker,
    bytes_per_sample,
    check_prefetch,
    check_shared_memory,
    prefetched_bytes,
)
from data_modules.sources.config import SourceConfig
from tests.faults.processes import children, wait_until
from tests.unit.data_modules.corpora import samples, write_source

MIB = 2**20


def data(**settings: object) -> ImageDataConfig:
    return ImageDataConfig(sources={"a": SourceConfig(files=["a.parquet"])}, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (MaskedImageConfig(image_size=224), 3 * 224 * 224),
        (MultiCropConfig(image_size=224, num_global_crops=2, local_size=96, num_local_crops=4), 301_056 + 110_592),
        (MultiCropConfig(image_size=64, num_global_crops=1, num_local_crops=0), 12_288),
    ],
)
def test_bytes_per_sample__of_the_crops(transform: MaskedImageConfig | MultiCropConfig, expected: int) -> None:
    assert bytes_per_sample(data(), transform) == expected


def test_bytes_per_sample__of_whole_images_is_an_estimate() -> None:
    """As of images of 256 x 341 1/3 pixels."""
    assert bytes_per_sample(data(resize_on_device=True), MaskedImageConfig(image_size=224)) == 262_144


@pytest.mark.parametrize(
    ("workers", "batch", "limit", "expected"),
    [(12, 100, 8192, 4), (12, 100, 4799, 3), (12, 100, 2400, 2), (12, 100, 1199, 1), (1, 100, 100, 1), (0, 100, 1, 1)],
)
def test_batches_per_worker(workers: int, batch: int, limit: int, expected: int) -> None:
    config = data(num_workers=workers, prefetch_megabytes=limit)
    assert batches_per_worker(config, batch * MIB) == expected
    held = prefetched_bytes(config, batch * MIB)
    assert held == (workers and workers * expected + 1) * batch * MIB


def test_check_prefetch__refused_below_one_batch_each() -> None:
    check_prefetch(data(num_workers=12, prefetch_megabytes=1200), 100 * MIB)
    check_prefetch(data(num_workers=0, prefetch_megabytes=1), 100 * MIB)
    message = (
        "mae.data.prefetch_megabytes = 1199 is less than one batch of 100 MiB for each of data.num_workers = 12 loader "
        "processes; set it to 1200 or more, or start fewer processes"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        check_prefetch(data(num_workers=12, prefetch_megabytes=1199), 100 * MIB, "mae.")


def test_check_shared_memory(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    check_shared_memory([free // 4] * 2, tmp_path)
    check_shared_memory([0] * 8, tmp_path)
    check_shared_memory([2 * free], tmp_path / "absent")
    with pytest.raises(DataError, match=r"the loader processes of 3 ranks on this machine keep up to .* --shm-size"):
        check_shared_memory([free // 2] * 3, tmp_path)


def shared_bytes(processes: list[int]) -> int:
    """Shared memory of torch's that these processes have open or mapped, each piece once."""
    pieces = {}
    for process in processes:
        for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines():
            addresses, _, _, _, inode, *name = line.split(maxsplit=5)
            if name and "/torch_" in name[0]:
                first, last = (int(one, 16) for one in addresses.split("-"))
                pieces[int(inode)] = last - first
        for link in Path(f"/proc/{process}/fd").iterdir():  # a batch on its way is open, and no longer mapped
            with suppress(OSError):
                if "/torch_" in os.readlink(link):
                    status = link.stat()
                    pieces[status.st_ino] = status.st_size
    return sum(pieces.values())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("megabytes", [1, 2])
def test_a_loader__takes_no_more_than_planned(tmp_path: Path, megabytes: int) -> None:
    """Two workers, batches of 0.44 MiB: one each within 1 MiB, two each within 2 MiB."""
    source = write_source("table", tmp_path, samples(40))
    config = ImageDataConfig(
        sources={"a": source}, global_batch_size=48, num_workers=2, prefetch_megabytes=megabytes
    )  # fmt: skip
    transform = MaskedImageConfig(image_size=56)
    module = ImageDataModule(config, transform, num_patches=49, seed=0, max_steps=40)
    iterator = iter(module.train_dataloader())
    batch = next(iterator)
    batch_bytes = 48 * bytes_per_sample(config, transform)
    assert batch.images.numel() == batch_bytes
    here = os.getpid()
    ahead = 2 * megabytes * batch_bytes
    wait_until(lambda: shared_bytes([here, *children(here)]) >= ahead, "batches that are made ahead")
    noise_and_ids = (2 * megabytes + 1) * 48 * (49 * 4 + 16 + 100)
    assert shared_bytes([here, *children(here)]) <= prefetched_bytes(config, batch_bytes) + noise_and_ids + 2**16
    del iterator
