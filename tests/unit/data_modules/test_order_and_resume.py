"""Global batch k holds the same ids and pixels for any number of workers and ranks, and after a resume."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.records import ImageTextBatch
from data_modules.text.config import TokenizerConfig
from tests.unit.data_modules.corpora import FORMATS, samples, write_source

BATCH, STEPS, NUMBER = 8, 9, 28
"""28 samples, 8 a batch: epoch ends inside batches 3 and 6; the boundary between 6 and 7 is exact (56 = 7 * 8)."""
TRANSFORM = MultiCropConfig(image_size=16, num_global_crops=1, local_size=8, num_local_crops=1)
Step = tuple[list[int], list[str]]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(params=FORMATS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> ImageTextDataConfig:
    corpus = samples(NUMBER)
    sources = {
        "first": write_source(request.param, tmp_path / "a", corpus[:18], per_shard=7),
        "second": write_source(request.param, tmp_path / "b", corpus[18:], per_shard=4),
    }
    order = OrderConfig(shuffle_window=12, run_length=3)
    return ImageTextDataConfig(sources=sources, global_batch_size=BATCH, num_workers=0, order=order)


def _data(config: ImageTextDataConfig, rank: int = 0, world: int = 1, start: int = 0) -> ImageTextDataModule:
    data = ImageTextDataModule(config, TRANSFORM, TokenizerConfig(vocab_size=280), seed=4, max_steps=STEPS)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=start)
    data.load_state_dict({"next_step": start})
    return data


def _hashes(batch: ImageTextBatch) -> list[str]:
    def content(place: int) -> bytes:
        tensors = (batch.global_crops[:, place], batch.local_crops[:, place], batch.sample_seeds[place])
        return b"".join(one.numpy().tobytes() for one in tensors) + batch.captions[place].encode()

    return [hashlib.sha256(content(place)).hexdigest() for place in range(len(batch.sample_ids))]


def _steps(config: ImageTextDataConfig, *, workers: int = 0, world: int = 1, start: int = 0) -> list[Step]:
    """Ids and pixel hashes of every global batch from `start` on, with the ranks' parts joined."""
    config = replace(config, num_workers=workers)
    served = [list(_data(config, rank, world, start).train_dataloader()) for rank in range(world)]
    return [
        ([one for batch in batches for one in batch.sample_ids.tolist()], [one for b in batches for one in _hashes(b)])
        for batches in zip(*served, strict=True)
    ]


def test_global_batches__do_not_depend_on_world_or_workers(config: ImageTextDataConfig) -> None:
    whole = _steps(config)
    assert len(whole) == STEPS
    for world in (1, 2, 4):
        for workers in (0, 1, 3) if world == 1 else (0, 1):
            assert _steps(config, workers=workers, world=world) == whole, (world, workers)


def test_epochs__hold_each_id_once_and_differ(config: ImageTextDataConfig) -> None:
    ids = [sample_id for step_ids, _ in _steps(config) for sample_id in step_ids]
    first, second = ids[:NUMBER], ids[NUMBER : 2 * NUMBER]
    assert sorted(first) == sorted(second) == list(range(NUMBER))
    assert first != second


def test_epochs__show_a_sample_in_other_crops_each_time(config: ImageTextDataConfig) -> None:
    seen: dict[int, list[str]] = {}
    for ids, hashes in _steps(config):
        # A batch that spans two epochs may hold a sample twice; there it looks the same.
        for sample_id, digest in dict(zip(ids, hashes, strict=True)).items():
            seen.setdefault(sample_id, []).append(digest)
    assert all(len(set(found)) == len(found) for found in seen.values())
    assert sum(map(len, seen.values())) > 2 * NUMBER


@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_resume__with_other_workers_and_world_continues_the_same_sequence(
    config: ImageTextDataConfig, stop: int
) -> None:
    """Steps 1, 3 and 5 lie inside epochs, 7 at the end of one."""
    whole = _steps(config)
    for workers, world in ((0, 1), (1, 2), (2, 1), (0, 4)):
        assert _steps(config, workers=workers, world=world, start=stop) == whole[stop:], (workers, world)


def test_formats__give_the_same_batches(tmp_path: Path) -> None:
    sources = [write_source(kind, tmp_path / kind, samples(NUMBER)) for kind in FORMATS]
    configs = [ImageTextDataConfig(sources={"only": one}, global_batch_size=BATCH, num_workers=0) for one in sources]
    first, *others = map(_steps, configs)
    assert others == [first, first]


def test_batches__hold_the_captions_and_languages_of_their_ids(config: ImageTextDataConfig) -> None:
    corpus = samples(NUMBER)
    for batch in _data(config).train_dataloader():
        for place, sample_id in enumerate(batch.sample_ids.tolist()):
            assert batch.captions[place] == corpus[sample_id].caption
            assert ("ko", "en")[batch.languages[place]] == corpus[sample_id].language
        assert len(np.unique(batch.sample_seeds)) == len(np.unique(batch.sample_ids))
        assert batch.faults == []
        assert torch.is_tensor(batch.tokens)
