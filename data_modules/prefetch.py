"""How much memory the loader processes of a run take for batches that are ready, and whether the machine has it.

Batches travel from a loader process to its rank through shared memory, which Linux keeps in a file system of limited
size: half of the memory on most machines, 64 MiB in a container by default.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from data_modules.config import ImageDataConfig, ImageTextDataConfig
from data_modules.errors import DataError
from data_modules.images.config import MaskedImageConfig, MultiCropConfig

MAX_BATCHES_PER_WORKER = 4
"""Batches that a loader process makes ahead, where `data.prefetch_megabytes` allows it."""
SHARED_MEMORY = Path("/dev/shm")
DataConfig = ImageDataConfig | ImageTextDataConfig
_MIB = 2**20
_CHANNELS = 3
_DECODED_SIDE = 8 / 7
"""Assumed short side of a stored image over that of its largest crop: 256 px for crops of 224."""
_DECODED_SHAPE = 4 / 3
"""Assumed long side over short side."""


def bytes_per_sample(config: DataConfig, transform: MaskedImageConfig | MultiCropConfig) -> int:
    """Pixels of a sample in a batch, uint8; with `resize_on_device` an estimate, since whole images are sent then."""
    if config.resize_on_device:
        short = _DECODED_SIDE * transform.image_size
        return round(_CHANNELS * short * short * _DECODED_SHAPE)
    if isinstance(transform, MaskedImageConfig):
        return _CHANNELS * transform.image_size**2
    full, local = transform.num_global_crops + transform.views.num_views, transform.num_local_crops
    return _CHANNELS * (full * transform.image_size**2 + local * (transform.local_size**2 if local else 0))


def batches_per_worker(config: DataConfig, batch_bytes: int) -> int:
    """Batches that each loader process makes ahead, 1 to `MAX_BATCHES_PER_WORKER`.

    Args:
        config: The stage's data.
        batch_bytes: Pixels of one rank's batch.
    """
    together = max(1, config.num_workers) * batch_bytes
    return max(1, min(MAX_BATCHES_PER_WORKER, config.prefetch_megabytes * _MIB // together))


def prefetched_bytes(config: DataConfig, batch_bytes: int) -> int:
    """Most shared memory of a rank's batches: those ahead, and the one that is trained on; 0 without processes."""
    if not config.num_workers:
        return 0
    return (config.num_workers * batches_per_worker(config, batch_bytes) + 1) * batch_bytes


def check_prefetch(config: DataConfig, batch_bytes: int, at: str = "") -> None:
    """Check that every loader process can make a batch ahead.

    Args:
        config: The stage's data.
        batch_bytes: Pixels of one rank's batch.
        at: Prefix of the stage's keys, empty or ending with a dot.

    Raises:
        DataError: One batch for each process is more than `data.prefetch_megabytes`.
    """
    needed = -(-config.num_workers * batch_bytes // _MIB)
    if needed > config.prefetch_megabytes:
        raise DataError(
            f"{at}data.prefetch_megabytes = {config.prefetch_megabytes} is less than one batch of "
            f"{batch_bytes / _MIB:,.0f} MiB for each of data.num_workers = {config.num_workers} loader processes; set "
            f"it to {needed} or more, or start fewer processes"
        )


def check_shared_memory(of_ranks: Sequence[int], folder: Path = SHARED_MEMORY) -> None:
    """Check that shared memory has room for the batches of all ranks of this machine.

    Args:
        of_ranks: `prefetched_bytes` of each.
        folder: The file system; without it (not on Linux) nothing is checked.

    Raises:
        DataError: It has not.
    """
    needed = sum(of_ranks)
    if not needed or not folder.is_dir():
        return
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise DataError(
            f"{folder} has {free / _MIB:,.0f} MiB free, and the loader processes of {len(of_ranks)} ranks on this "
            f"machine keep up to {needed / _MIB:,.0f} MiB of batches there; lower data.num_workers or "
            f"data.prefetch_megabytes, or enlarge it (mount -o remount,size=... {folder}, docker run --shm-size=...)"
        )
