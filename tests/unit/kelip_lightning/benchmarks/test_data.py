"""The data benchmark: its files, its kinds of loader, and its report."""

import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_modules.images.planes import encode_planes
from data_modules.images.transforms.uncut import cut
from data_modules.records import ImageTextBatch, UncutBatch
from kelip_lightning.benchmarks import data
from kelip_lightning.benchmarks.data import (
    BATCH,
    BOUND,
    DEVICE,
    INSTALL_DECODER,
    INSTALL_PEER,
    NUM_SHARDS,
    ONE,
    ONE_CROP,
    PEER,
    PLANES,
    RAW,
    SIX,
    SIX_CROPS,
    DataRates,
    DataSetting,
    bound,
    measure,
    our_loader,
    peer_batches,
    photo,
    rates,
    run_data_benchmark,
    write_data_report,
    write_shards,
)
from kelip_lightning.errors import BenchmarkError


def test_photo__is_a_jpeg_of_four_to_three_that_compresses_as_a_photograph() -> None:
    encoded = photo(256, seed=3)
    image = Image.open(io.BytesIO(encoded))
    assert (image.format, image.size) == ("JPEG", (341, 256))
    assert encoded == photo(256, seed=3) != photo(256, seed=4)
    bits_per_pixel = 8 * len(encoded) / (341 * 256)
    assert 0.8 < bits_per_pixel < 6


def test_write_shards__every_image_with_its_caption_once(tmp_path: Path) -> None:
    images = [photo(256, seed) for seed in range(8)]
    write_shards(tmp_path, images, "jpg")
    found: dict[str, bytes] = {}
    for file in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(file) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                found[member.name] = stream.read()
    assert len(list(tmp_path.glob("*.tar"))) == NUM_SHARDS
    assert [found[f"{place:09d}.jpg"] for place in range(8)] == images
    assert found["000000005.txt"] == b"picture number 5"
    sizes = json.loads((tmp_path / "sizes.json").read_text(encoding="utf-8"))
    assert set(sizes.values()) == {8 // NUM_SHARDS}


def test_loaders__give_the_crops_of_every_image(tmp_path: Path) -> None:
    images = [photo(256, seed) for seed in range(BATCH)]
    write_shards(tmp_path, images, "jpg")
    (one,) = our_loader(tmp_path, ONE_CROP, BATCH)
    assert one.global_crops.shape == (1, BATCH, 3, 224, 224) and not len(one.local_crops)
    assert sorted(one.captions) == sorted(f"picture number {place}" for place in range(BATCH))
    (six,) = our_loader(tmp_path, SIX_CROPS, BATCH)
    assert six.global_crops.shape[0] == 2 and six.local_crops.shape == (4, BATCH, 3, 96, 96)
    (theirs, tokens), *others = peer_batches(tmp_path, BATCH)
    assert theirs.shape == (BATCH, 3, 224, 224) and len(tokens) == BATCH and not others


def test_loaders__planes_and_uncut_crops_are_those_of_the_files_up_to_rounding(tmp_path: Path) -> None:
    images = [photo(256, seed) for seed in range(BATCH)]
    write_shards(tmp_path / "jpeg", images, "jpg")
    pictures = [Image.open(io.BytesIO(image)).convert("YCbCr") for image in images]
    write_shards(tmp_path / "planes", [encode_planes(picture) for picture in pictures], "yuv")
    (cut_by_loader,) = our_loader(tmp_path / "jpeg", ONE_CROP, BATCH)
    (uncut,) = our_loader(tmp_path / "jpeg", ONE_CROP, BATCH, on_device=True)
    (of_planes,) = our_loader(tmp_path / "planes", ONE_CROP, BATCH)
    assert isinstance(uncut, UncutBatch)
    cut_by_device = cut(uncut, torch.float32)
    assert isinstance(cut_by_device, ImageTextBatch)
    for other, largest, mean in ((cut_by_device, 2, 0.1), (of_planes, 15, 1.5)):
        assert other.captions == cut_by_loader.captions
        difference = (other.global_crops.int() - cut_by_loader.global_crops.int()).abs()
        assert difference.max() <= largest and difference.float().mean() < mean


def test_bound__cuts_the_middle_of_every_image() -> None:
    images = [photo(256, seed) for seed in range(3)]
    assert sum(1 for _ in bound(images)) == 3


def test_rates__the_best_of_the_repeats_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    seconds = {"fast": iter([2.0, 1.0]), "slow": iter([4.0, 8.0])}

    def processor_seconds(work: object) -> float:
        work()  # type: ignore[operator]
        return next(seconds[order[-1]])

    def make(kind: str) -> list[int]:
        order.append(kind)
        return [1]

    monkeypatch.setattr(data, "_processor_seconds", processor_seconds)
    found = rates({"fast": lambda: make("fast"), "slow": lambda: make("slow")}, 16, 2)
    assert found == {"fast": 16.0, "slow": 4.0}


def test_measure__every_kind_of_one_batch() -> None:
    found = measure(512, DataSetting(repeats=1, batches=1))
    assert found.samples_per_second.keys() == {RAW, BOUND, ONE, SIX, DEVICE, PLANES, PEER}
    assert found.samples_per_second[RAW] > found.samples_per_second[SIX] > 0
    assert found.kilobytes == pytest.approx(np.mean([len(photo(512, seed)) for seed in range(BATCH)]) / 1000)
    assert found.worker_megabytes == []


def _hide(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None if name == hidden else find(name))


def test_run_data_benchmark__says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def pretend(threads: int, work: object, side: int, setting: DataSetting) -> DataRates:
        assert threads == 1 and work is measure and setting.repeats == 3
        asked.append(side)
        return DataRates(side=side, kilobytes=1.0, samples_per_second={ONE: 5.0}, worker_megabytes=[])

    monkeypatch.setattr(data, "in_fresh_process", pretend)
    _hide(monkeypatch, "webdataset")
    lines: list[str] = []
    run_data_benchmark(DataSetting(sizes=[512, 256]), lines.append)
    assert asked == [512, 256]
    assert lines[0] == INSTALL_PEER and lines[1] == "512 px: one 5 samples per CPU second"
    _hide(monkeypatch, "simplejpeg")
    with pytest.raises(BenchmarkError, match=INSTALL_DECODER):
        run_data_benchmark(DataSetting(), lines.append)


def test_write_data_report(tmp_path: Path) -> None:
    found = [DataRates(side=256, kilobytes=31.0, samples_per_second={RAW: 9.0, ONE: 5.0}, worker_megabytes=[7, 7, 7])]
    numbers, plot = write_data_report(DataSetting(sizes=[256]), found, tmp_path)
    written = json.loads(numbers.read_text(encoding="utf-8"))
    assert written["sizes"][0]["samples_per_second"] == {"raw": 9.0, "one": 5.0}
    assert written["setting"]["sizes"] == [256]
    assert plot.stat().st_size > 1000


def test_data_setting__refuses_sizes_that_it_has_no_images_for() -> None:
    with pytest.raises(ValueError, match="sizes = 300 must be one of 256, 512, 1024"):
        DataSetting(sizes=[256, 300])
