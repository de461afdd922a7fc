"""The loader: records by id, and the same batches whatever the number of workers."""

import hashlib
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.loading import PairDataset, build_loader, build_order
from data_modules.records import PairRecord
from data_modules.sampling import Draw, RankBatchSampler
from data_modules.sources.config import SourceConfig


@dataclass
class ListSource:
    """A source whose records say where they stand."""

    name: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> PairRecord:
        assert 0 <= index < self.length
        return PairRecord(key=f"{self.name}/{index}", image=b"", language="ko", caption="")

    def captions(self) -> list[tuple[str, str]]:
        return []


SOURCES = [ListSource("a", 3), ListSource("b", 1), ListSource("c", 9)]
CONFIGS = {
    name: SourceConfig(files=["x"], captions={"ko": "x"}, weight=weight)
    for name, weight in (("c", 0.5), ("a", 2.0), ("b", 1.0))
}
Sample = tuple[Draw, str, str]


def _sample(draw: Draw, record: PairRecord, generator: np.random.Generator) -> Sample:
    return draw, record.key, hashlib.sha256(generator.bytes(16)).hexdigest()


def _batches(num_workers: int) -> list[Any]:
    sampler = RankBatchSampler(
        build_order(SOURCES, CONFIGS, 4, 7), start_step=1, max_steps=6, rank=0, world_size=1, accumulate=1
    )
    return list(build_loader(PairDataset(SOURCES, _sample, 7), sampler, list, num_workers))


def test_pair_dataset__ids_follow_the_sources() -> None:
    dataset = PairDataset(SOURCES, _sample, 0)
    keys = [dataset.record(sample_id).key for sample_id in range(13)]
    assert keys == ["a/0", "a/1", "a/2", "b/0", *[f"c/{index}" for index in range(9)]]


def test_pair_dataset__each_draw_has_its_own_stream() -> None:
    dataset = PairDataset(SOURCES, _sample, 5)
    draws = [Draw(step, sample_id) for step in range(3) for sample_id in range(3)]
    assert len({dataset[draw][2] for draw in draws}) == 9
    assert dataset[draws[4]] == dataset[draws[4]]
    assert dataset[draws[4]][2] != PairDataset(SOURCES, _sample, 6)[draws[4]][2]


def test_build_order__weights_go_by_name() -> None:
    order = build_order(SOURCES, CONFIGS, 4, 7)
    assert order.lengths == (3, 1, 9)
    assert order.weights == (2.0, 1.0, 0.5)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_build_loader__workers_change_nothing(num_workers: int) -> None:
    alone = _batches(0)
    assert [draw.step for batch in alone for draw, _, _ in batch] == [step for step in range(1, 6) for _ in range(4)]
    assert _batches(num_workers) == alone


@pytest.mark.parametrize("num_workers", [0, 1])
def test_build_loader__leaves_the_global_random_streams(num_workers: int) -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    _batches(num_workers)
    assert states() == before
