"""Batches of MAE pre-training from a table on disk."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.config import ImageDataConfig
from data_modules.image import ImageDataModule
from data_modules.images.config import Background, MaskedImageConfig
from data_modules.images.decoding import open_image
from data_modules.order.sampling import Draw
from data_modules.records import UncutBatch
from data_modules.sources.config import SourceConfig
from tests.unit.data_modules.one_by_one import crops_of, model_seed_of, stream_of

Rows = list[dict[str, Any]]
TRANSFORM = MaskedImageConfig(image_size=16, scale_min=0.5)


@pytest.fixture
def config(rows: Rows, write_table: Callable[[Rows, str], str]) -> ImageDataConfig:
    file = write_table(rows, "a.parquet")
    sources = {
        "flat": SourceConfig(files=[file], captions={"ko": "name_ko"}, where={"design": ["flat"]}),
        "round": SourceConfig(files=[file], captions={"ko": "name_ko"}, where={"design": ["round"]}, weight=0.5),
    }
    return ImageDataConfig(sources=sources, global_batch_size=9, num_workers=0)


def _data(config: ImageDataConfig, seed: int = 1) -> ImageDataModule:
    return ImageDataModule(config, TRANSFORM, num_patches=4, seed=seed, max_steps=3)


def _fingerprint(config: ImageDataConfig) -> list[Any]:
    batches = _data(config).train_dataloader()
    return [[getattr(batch, name).tolist() for name in ("images", "noise", "sample_ids")] for batch in batches]


def test_train_dataloader__shapes_and_order(config: ImageDataConfig) -> None:
    data = _data(config)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for step, batch in enumerate(batches):
        assert (batch.images.shape, batch.images.dtype) == ((9, 3, 16, 16), torch.uint8)
        assert (batch.noise.shape, batch.noise.dtype) == ((9, 4), torch.float32)
        assert batch.sample_ids.tolist() == data.order.batch(step).tolist()
    assert sum((batch.sample_ids < 6).sum().item() for batch in batches) == 18, "6 of 9 draws an epoch are flat"


def test_train_dataloader__each_sample_from_its_own_stream(config: ImageDataConfig, rows: Rows) -> None:
    flat = [row for row in rows if row["design"] == "flat"]
    batch = list(_data(config, seed=5).train_dataloader())[1]
    place = int((batch.sample_ids < 6).nonzero()[0])
    sample_id = int(batch.sample_ids[place])
    generator, picture = stream_of(5, Draw(1, sample_id)), open_image(flat[sample_id]["image"]["bytes"])
    ((image,),) = crops_of(picture, [(1, 16, 0.5, 1.0, 0.0)], Background.white, generator)
    assert np.array_equal(batch.images[place], image)
    assert np.array_equal(batch.noise[place], generator.random(4, dtype=np.float32))
    assert batch.sample_seeds[place] == model_seed_of(5, Draw(1, sample_id))


def test_train_dataloader__a_crop_left_to_the_device_is_that_of_the_cpu(config: ImageDataConfig) -> None:
    here, there = _data(config), _data(replace(config, resize_on_device=True))
    device = SimpleNamespace(root_device=torch.device("cuda"))
    there.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=device)
    for expected, uncut in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert isinstance(uncut, UncutBatch)
        found = there.on_after_batch_transfer(uncut, 0)
        assert (found.images.shape, found.images.dtype) == (expected.images.shape, torch.uint8)
        assert (found.images.int() - expected.images.int()).abs().max() <= 2
        assert torch.equal(found.noise, expected.noise)
        assert torch.equal(found.sample_seeds, expected.sample_seeds)


def test_train_dataloader__workers_change_nothing(config: ImageDataConfig) -> None:
    assert _fingerprint(replace(config, num_workers=2)) == _fingerprint(config)


def test_train_dataloader__resumes_at_the_tail(config: ImageDataConfig) -> None:
    data = _data(config)
    data.load_state_dict({"next_step": 2})
    assert [batch.sample_ids.tolist() for batch in data.train_dataloader()] == [data.order.batch(2).tolist()]
