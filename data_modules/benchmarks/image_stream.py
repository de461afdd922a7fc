"""Stored images, decoded by loader workers when they are needed, a batch at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.transforms.evaluation import evaluation_image
from data_modules.loader import SignalSafeDataLoader, build_fixed_loader

Preprocess = Callable[[bytes], Tensor]
"""An encoded image file -> (3, H, W), the same shape for every image; raises SampleFault."""


@dataclass(frozen=True, slots=True)
class EvaluationTransform:
    """Short side resized (bicubic) to `image_size`, centre-cropped; uint8 (3, S, S)."""

    image_size: int

    def __call__(self, data: bytes) -> Tensor:
        """The image of an encoded file.

        Raises:
            SampleFault: It cannot be decoded.
        """
        return torch.from_numpy(evaluation_image(data, self.image_size).copy())


@dataclass(frozen=True, slots=True)
class SelectedImages:
    """Some images of a table."""

    table: SampleTable
    rows: RowIds
    """int64 (N,), rows of the table."""

    def __len__(self) -> int:
        return len(self.rows)


class ImageCache:
    """Batches of preprocessed images in the memory of this process, for evaluations that are repeated.

    A table's batches are kept if all of them fit beside those that are kept already; else none is.

    Args:
        max_bytes: Memory; 0: nothing is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._kept: dict[tuple[int, bytes], list[tuple[slice, Tensor]]] = {}

    def batches(
        self, images: SelectedImages, batches: Sequence[slice], read: Callable[[], Iterator[tuple[slice, Tensor]]]
    ) -> Iterator[tuple[slice, Tensor]]:
        """The kept batches, or those of `read`, which are kept if they fit.

        Args:
            images: N images; their table must live as long as this cache.
            batches: Slices of [0, N).
            read: Reads these batches.
        """
        key = id(images.table), images.rows.tobytes()
        kept = self._kept.get(key)
        if kept is not None and [batch for batch, _ in kept] == list(batches):
            yield from kept
            return
        number, found = sum(one.stop - one.start for one in batches), []
        for batch, pixels in read():
            if pixels[0].nbytes * number <= self._free:
                # A copy, since each batch of a loader process keeps a file open, and a process may open only so many.
                found.append((batch, pixels.clone() if pixels.is_pinned() or pixels.is_shared() else pixels))
            yield batch, pixels
        if len(found) == len(batches):
            self._free -= sum(pixels.nbytes for _, pixels in found)
            self._kept[key] = found


class _Unreadable(NamedTuple):
    """Sent by a worker in place of an image: an exception would arrive with the worker's traceback as its message."""

    key: str
    reason: str


class _Images(Dataset["Tensor | _Unreadable"]):
    def __init__(self, images: SelectedImages, preprocess: Preprocess) -> None:
        self._images, self._preprocess = images, preprocess

    def __getitem__(self, position: int) -> "Tensor | _Unreadable":
        row = int(self._images.rows[position])
        try:
            return self._preprocess(self._images.table.image(row))
        except SampleFault as fault:
            return _Unreadable(self._images.table.keys(self._images.rows[position : position + 1])[0], str(fault))


def _collate(samples: "list[Tensor | _Unreadable]") -> "Tensor | _Unreadable":
    return next((one for one in samples if isinstance(one, _Unreadable)), None) or torch.stack(samples)  # type: ignore[arg-type]


def image_batches(
    images: SelectedImages,
    preprocess: Preprocess,
    batches: Sequence[slice],
    *,
    num_workers: int,
    owner: str,
    pin_memory: bool = False,
) -> Iterator[tuple[slice, Tensor]]:
    """Batches of preprocessed images; at most a few per worker are in memory.

    Args:
        images: N images.
        preprocess: Applied in the workers.
        batches: Slices of [0, N).
        num_workers: Loader processes; 0: decoded in this process.
        owner: The images' evaluation sets, for messages.
        pin_memory: Whether batches are in page-locked memory, for a GPU.

    Yields:
        Each slice and its images, (B, 3, H, W).

    Raises:
        DataError: An image cannot be used; with its owner and key.
    """
    loader: SignalSafeDataLoader = build_fixed_loader(
        _Images(images, preprocess),
        [list(range(one.start, one.stop)) for one in batches],
        _collate,
        min(num_workers, len(batches) // 2),  # starting a process takes longer than decoding a small batch
        pin_memory=pin_memory,
    )
    for batch, loaded in zip(batches, loader, strict=True):
        if isinstance(loaded, _Unreadable):
            raise DataError(
                f"{owner}: image '{loaded.key}' cannot be used ({loaded.reason}); replace it, or remove its row"
            )
        yield batch, loaded
