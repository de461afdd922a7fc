"""Streams of stored images: order, workers, memory of few batches, and broken pictures."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_modules.benchmarks.image_stream import EvaluationTransform, ImageCache, SelectedImages, image_batches
from data_modules.benchmarks.sample_table import RowIds
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.images.transforms.evaluation import evaluation_image
from tests.unit.data_modules.conftest import encode


@dataclasses.dataclass
class Pictures:
    """Pictures of one colour each; `broken` rows have other bytes, `absent` ones none."""

    count: int
    broken: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    identity: str = "pictures"
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def cells(self, column: str, rows: RowIds) -> list[Any]:
        raise AssertionError(column)

    def keys(self, rows: RowIds) -> list[str]:
        return [f"key {row}" for row in rows]

    def image(self, row: int) -> bytes:
        if row in self.absent:
            raise SampleFault("image_missing", f"{row}.png")
        if row in self.broken:
            return b"no image"
        return encode(np.full((6, 9, 3), row, dtype=np.uint8))


def _stream(table: Pictures, rows: list[int], batches: list[slice], num_workers: int = 0) -> list[Any]:
    images = SelectedImages(table, np.array(rows))
    return list(
        image_batches(images, EvaluationTransform(4), batches, num_workers=num_workers, owner="evaluation set a")
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_batches__are_the_preprocessed_images_of_the_slices(num_workers: int) -> None:
    table, rows = Pictures(40), [5, 3, 8, 9, 1, 30, 22, 7, 14]
    batches = [slice(0, 2), slice(4, 6), slice(6, 8), slice(8, 9)]  # as one of two ranks has them
    found = _stream(table, rows, batches, num_workers)
    assert [batch for batch, _ in found] == batches
    for batch, images in found:
        expected = [evaluation_image(table.image(row), 4) for row in rows[batch]]
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(images.numpy(), np.stack(expected))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("fault", "reason"), [("broken", "image_undecodable"), ("absent", "image_missing")])
def test_image_batches__an_unusable_image_names_its_set_and_key(num_workers: int, fault: str, reason: str) -> None:
    table = Pictures(40, **{fault: frozenset({8})})
    batches = [slice(start, start + 2) for start in range(0, 8, 2)]
    with pytest.raises(DataError, match=rf"^evaluation set a: image 'key 8' cannot be used \({reason}.*; replace it"):
        _stream(table, [5, 3, 9, 7, 1, 8, 2, 6], batches, num_workers)
    assert len(_stream(table, [5, 3, 9, 7], batches[:2], num_workers)) == 2, "it is not read unless it is used"


class _CountedReads:
    """Batches of three images; counts how often they are read."""

    def __init__(self, batches: list[slice]) -> None:
        self.batches, self.reads = batches, 0

    def __call__(self) -> Iterator[tuple[slice, Tensor]]:
        self.reads += 1
        for one in self.batches:
            yield (
                one,
                torch.arange(one.start, one.stop, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone(),
            )


@pytest.mark.parametrize(("max_bytes", "reads"), [(0, 2), (3 * 48 - 1, 2), (3 * 48, 1)])
def test_image_cache__keeps_whole_tables_that_fit(max_bytes: int, reads: int) -> None:
    batches = [slice(0, 2), slice(2, 3)]
    images, read = SelectedImages(Pictures(3), np.arange(3)), _CountedReads(batches)
    cache = ImageCache(max_bytes)
    first, second = (list(cache.batches(images, batches, read)) for _ in range(2))
    assert read.reads == reads
    assert [batch for batch, _ in first] == [batch for batch, _ in second] == batches
    for (_, one), (_, two) in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_image_cache__other_batches_and_rows_are_read_anew() -> None:
    table = Pictures(3)
    whole, halves = _CountedReads([slice(0, 3)]), _CountedReads([slice(0, 2), slice(2, 3)])
    cache = ImageCache(1000)
    for reads in (whole, halves):
        list(cache.batches(SelectedImages(table, np.arange(3)), reads.batches, reads))
    list(cache.batches(SelectedImages(table, np.array([0, 1, 1])), whole.batches, whole))
    assert (whole.reads, halves.reads) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_image_cache__keeps_no_file_of_a_loader_process_open() -> None:
    images, batches = SelectedImages(Pictures(64), np.arange(64)), [slice(at, at + 2) for at in range(0, 64, 2)]

    def read() -> Iterator[tuple[slice, Tensor]]:
        return image_batches(images, EvaluationTransform(4), batches, num_workers=1, owner="evaluation set a")

    cache, before = ImageCache(10**6), len(os.listdir("/proc/self/fd"))
    first = [pixels.clone() for _, pixels in cache.batches(images, batches, read)]
    assert len(os.listdir("/proc/self/fd")) < before + len(batches) // 2
    kept = [pixels for _, pixels in cache.batches(images, batches, lambda: iter(()))]
    assert all(map(torch.equal, kept, first)) and len(kept) == len(batches)
