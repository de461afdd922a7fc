"""Crops cut by the device's kernel, run on CPU tensors, against those that the CPU cuts."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data_modules import records
from data_modules.faults import SampleFault
from data_modules.images.decoding import open_image
from data_modules.images.planes import encode_planes
from data_modules.images.transforms import uncut
from data_modules.images.transforms.crops import (
    Background,
    CropDistribution,
    CutWriter,
    SampledCrops,
    sample_crops,
    write_crops,
)
from data_modules.images.transforms.uncut import UncutWriter, cut, resizing_weights
from data_modules.records import ImageTextBatch

KINDS = [
    CropDistribution(2, 48, 0.3, 1.0, 0.5),
    CropDistribution(3, 16, 0.05, 0.4, 0.5),
    CropDistribution(0, 8, 0.1, 0.4, 0.5),
]
FIELDS = ("global_crops", "local_crops", "views")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])


def _file(width: int, height: int, seed: int, file_format: str = "JPEG", noise: bool = False) -> bytes:
    """An image file: smooth colours, or black and white pixels at random, at which the filter overshoots most."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    if noise:
        image = Image.fromarray(255 * generator.integers(0, 2, (height, width, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, file_format, quality=100)
    return buffer.getvalue()


def _sampled(files: list[bytes], seed: int = 0, kinds: list[CropDistribution] = KINDS) -> list[SampledCrops]:
    streams = [np.random.default_rng([seed, number]) for number in range(len(files))]
    return [
        sample_crops(open_image(data), kinds, Background.light, stream)
        for data, stream in zip(files, streams, strict=True)
    ]


def _rest(crops: list[Tensor], number: int) -> ImageTextBatch:
    ids, (first, second, third) = torch.arange(number), crops
    return ImageTextBatch(
        sample_ids=ids,
        sample_seeds=ids,
        global_crops=first,
        local_crops=second,
        views=third,
        tokens=ids[:, None],
        languages=ids,
        captions=["a"] * number,
    )


def _both(sampled: list[SampledCrops], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """The crops of each distribution as the device and as the CPU cut them."""
    on_device, here = UncutWriter(KINDS, len(sampled)), CutWriter(KINDS, len(sampled), write_crops)
    for place, one in enumerate(sampled):
        on_device.write(place, one)
        here.write(place, one)
    batch: Any = cut(on_device.finish(_rest(on_device.crops, len(sampled)), FIELDS), dtype)
    assert batch.captions == ["a"] * len(sampled)
    return [getattr(batch, name) for name in FIELDS], here.crops


def _difference(found: Tensor, expected: Tensor) -> int:
    assert (found.shape, found.dtype) == (expected.shape, torch.uint8)
    return int((found.int() - expected.int()).abs().max()) if found.numel() else 0


@DTYPES
@given(
    sides=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400), st.booleans()), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_cut__crops_of_any_jpegs_are_those_of_the_cpu_within_2(
    dtype: torch.dtype, sides: list[tuple[int, int, bool]], seed: int
) -> None:
    files = [_file(width, height, i, noise=noise) for i, (width, height, noise) in enumerate(sides)]
    for found, expected in zip(*_both(_sampled(files, seed), dtype), strict=True):
        assert _difference(found, expected) <= 2


@pytest.mark.parametrize(("dtype", "largest", "share"), [(torch.float32, 1, 0.01), (torch.float16, 2, 0.12)])
def test_cut__few_pixels_of_smooth_images_differ_and_none_on_average(
    dtype: torch.dtype, largest: int, share: float
) -> None:
    files = [_file(341, 256, seed) for seed in range(6)] + [_file(1400, 900, 7)]
    for found, expected in list(zip(*_both(_sampled(files), dtype), strict=True))[:2]:
        assert _difference(found, expected) <= largest
        assert (found != expected).float().mean() < share
        assert abs((found.float() - expected.float()).mean()) < 0.02


@pytest.mark.parametrize("file_format", FORMATS[1:])
def test_cut__crops_of_other_formats_are_those_of_the_cpu(file_format: str) -> None:
    files = [_file(60 + 50 * i, 300, i, file_format, noise=i % 2 == 0) for i in range(4)]
    for dtype, largest in ((torch.float32, 1), (torch.float16, 2)):
        for found, expected in zip(*_both(_sampled(files), dtype), strict=True):
            assert _difference(found, expected) <= largest


@DTYPES
def test_cut__crops_of_planes_are_those_of_the_cpu_within_2(dtype: torch.dtype) -> None:
    files = [encode_planes(Image.open(io.BytesIO(_file(100 + i, 80, i))).convert("YCbCr")) for i in range(4)]
    for found, expected in zip(*_both(_sampled(files), dtype), strict=True):
        assert _difference(found, expected) <= 2


def test_cut__formats_sizes_and_flips_beside_each_other_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [_file(30 + 97 * i % 500, 20 + 61 * i % 300, i, FORMATS[i % 4]) for i in range(13)]
    sampled = _sampled(files)
    assert len({crop.flip for one in sampled for crop in one.crops}) == 2
    whole, expected = _both(sampled, torch.float32)
    assert [_difference(*pair) <= 1 for pair in zip(whole, expected, strict=True)] == [True] * 3
    monkeypatch.setattr(uncut, "_CHUNK_PIXELS", 1)
    alone, _ = _both(sampled, torch.float32)
    assert [_difference(*pair) for pair in zip(alone, whole, strict=True)] == [0, 0, 0], "one crop at a time"


def test_cut__memory_has_the_layout_of_the_cpus_crops() -> None:
    found, expected = _both(_sampled([_file(90, 70, seed) for seed in range(3)]), torch.float32)
    assert [one.stride()[2:] for one in found[:2]] == [one.stride()[2:] for one in expected[:2]]


def test_cut__is_the_same_every_time_and_inside_autocast() -> None:
    sampled = _sampled([_file(200, 150, seed) for seed in range(3)])
    first, _ = _both(sampled, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = _both(sampled, torch.float32)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_uncut_writer__keeps_reduced_jpegs_and_no_more() -> None:
    """1400 x 900 pixels for crops of 48 and 16: decoded at a half, or less."""
    sampled = _sampled([_file(1400, 900, seed) for seed in range(5)], kinds=[CropDistribution(1, 48, 0.9, 1.0, 0.0)])
    writer = UncutWriter([CropDistribution(1, 48, 0.9, 1.0, 0.0)], 5)
    for place, one in enumerate(sampled):
        writer.write(place, one)
    batch = writer.finish(_rest([*writer.crops, *writer.crops, *writer.crops], 5), ["global_crops"])
    reductions = [one.reduction for one in sampled]
    assert set(reductions) == {8}
    assert batch.pixels.shape == (5 * 3 * 175 * 113,)
    assert cut(batch).global_crops.shape == (1, 5, 3, 48, 48)


def test_uncut_writer__a_damaged_image_leaves_no_pixels() -> None:
    good, damaged = _file(90, 70, 0), _file(90, 70, 1)[:-300]
    writer = UncutWriter(KINDS, 2)
    first, bad, second = _sampled([good, damaged, good])
    writer.write(0, first)
    with pytest.raises(SampleFault, match="image_undecodable"):
        writer.write(1, bad)
    writer.write(1, second)
    batch = writer.finish(_rest(writer.crops, 2), FIELDS)
    assert batch.pixels.shape == (2 * 3 * 90 * 70,)


def test_uncut_writer__memory_that_grows_keeps_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = _sampled([_file(20 + 40 * i, 30, i) for i in range(6)])
    whole, _ = _both(sampled, torch.float32)
    monkeypatch.setattr(uncut, "_ROOM", 0.01)
    grown, _ = _both(sampled, torch.float32)
    assert all(torch.equal(*pair) for pair in zip(grown, whole, strict=True))


def test_uncut_writer__without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = _sampled([_file(80, 60, i) for i in range(3)])
    fast, _ = _both(sampled, torch.float32)
    monkeypatch.setattr("data_modules.images.decoding._simplejpeg", lambda: None)
    slow, _ = _both(sampled, torch.float32)
    assert all(torch.equal(*pair) for pair in zip(fast, slow, strict=True))


def test_uncut_writer__pixels_of_a_worker_are_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "get_worker_info", lambda: object())
    writer = UncutWriter(KINDS, 1)
    writer.write(0, _sampled([_file(80, 60, 0)])[0])
    assert writer.finish(_rest(writer.crops, 1), FIELDS).pixels.is_shared()


@pytest.mark.parametrize(("length", "size"), [(1, 5), (5, 1), (40, 40), (300, 24), (24, 300), (57, 56)])
def test_resizing_weights__are_torchs_filter(length: int, size: int) -> None:
    """The response of torch's float kernel to single pixels."""
    weights = resizing_weights(torch.tensor([length, max(1, length // 2)]), size, length + 3)
    assert (weights.dtype, weights.shape) == (torch.float32, (2, size, length + 3))
    assert torch.equal(weights[0, :, length:], torch.zeros(size, 3))
    points = torch.eye(length)[:, None, None, :]
    expected = F.interpolate(points, size=(1, size), mode="bicubic", antialias=True)[:, 0, 0].T
    torch.testing.assert_close(weights[0, :, :length], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, size))


def test_pin_memory__of_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    writer = UncutWriter(KINDS, 1)
    writer.write(0, _sampled([_file(80, 60, 0)])[0])
    batch = writer.finish(_rest(writer.crops, 1), FIELDS)
    again = batch.pin_memory()
    tensors = [batch.pixels, *(one for crops in batch.crops.values() for one in (crops.regions, crops.order))]
    assert {one.data_ptr() for one in tensors} <= set(pinned)
    assert len(pinned) == len(tensors) + 7
    assert torch.equal(cut(again).global_crops, cut(batch).global_crops)
