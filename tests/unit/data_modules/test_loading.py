"""The loader: records by id, and the same batches whatever the number of workers."""

import hashlib
import os
import random
import signal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault
from data_modules.loading import Loaded, PairDataset, StageDataModule, build_loader
from data_modules.order.mixture import build_order
from data_modules.order.sampling import BatchOrder, Draw, RankBatchSampler
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from tests.unit.data_modules.corpora import FakeSource

SOURCES = [FakeSource("a", ["ko"] * 3), FakeSource("b", ["ko"]), FakeSource("c", ["ko"] * 9)]
CONFIGS = {
    name: SourceConfig(files=["x"], captions={"ko": "x"}, weight=weight)
    for name, weight in (("c", 0.5), ("a", 2.0), ("b", 1.0))
}
Sample = tuple[Draw, str, str]


def _sample(draw: Draw, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> Sample:
    repairs.append("image_cmyk")
    return draw, record.key, hashlib.sha256(generator.bytes(16)).hexdigest()


def _collate(loaded: list[Loaded[Sample]]) -> list[Sample]:
    return [one.sample for one in loaded]


def _batches(num_workers: int) -> list[Any]:
    sampler = RankBatchSampler(build_order(SOURCES, CONFIGS, 4, 7), start_step=1, max_steps=6, rank=0, world_size=1)
    return list(build_loader(PairDataset(SOURCES, _sample, 7), sampler, _collate, num_workers))


def test_pair_dataset__ids_follow_the_sources() -> None:
    dataset = PairDataset(SOURCES, _sample, 0)
    expected = [(0, 0), (0, 1), (0, 2), (1, 0), *[(2, index) for index in range(9)]]
    assert [dataset.locate(sample_id) for sample_id in range(13)] == expected


def test_pair_dataset__each_draw_has_its_own_stream() -> None:
    dataset = PairDataset(SOURCES, _sample, 5)
    draws = [Draw(step, sample_id) for step in range(3) for sample_id in range(3)]
    assert len({dataset[draw].sample[2] for draw in draws}) == 9
    assert dataset[draws[4]] == dataset[draws[4]]
    assert dataset[draws[4]].sample[2] != PairDataset(SOURCES, _sample, 6)[draws[4]].sample[2]


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


def _broken(*bad: int, error: BaseException | None = None) -> PairDataset[Sample]:
    def sample(draw: Draw, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> Sample:
        if draw.sample_id in bad:
            raise error or SampleFault("image_undecodable", "made so")
        return _sample(draw, record, generator, repairs)

    return PairDataset(SOURCES, sample, 7)


def test_pair_dataset__replaces_a_bad_sample_by_a_good_one_of_its_source() -> None:
    loaded = _broken(11, 12, 5)[Draw(3, 11)]
    draw, key, _ = loaded.sample
    assert (draw, key) == (Draw(3, 8), "c/4"), "those 0, 1 and 3 places behind (modulo 9) are bad, 6 places behind is 8"
    assert loaded.sample == _broken()[Draw(3, 8)].sample, "with its own random stream"
    assert [(one.kind, one.source, one.key, one.sample_id, one.step) for one in loaded.faults] == [
        ("image_undecodable", "c", "c/7", 11, 3),
        ("image_undecodable", "c", "c/8", 12, 3),
        ("image_undecodable", "c", "c/1", 5, 3),
        ("image_cmyk", "c", "c/4", 8, 3),
    ]
    assert [one.is_skipped for one in loaded.faults] == [True, True, True, False]


@pytest.mark.parametrize(
    "error", [TypeError("no str"), ValueError("odd"), KeyError("x"), AttributeError("y"), RuntimeError("z")]
)
def test_pair_dataset__counts_an_exception_of_one_sample_with_type_and_message(error: Exception) -> None:
    loaded = _broken(4, error=error)[Draw(3, 4)]
    assert loaded.sample[0] == Draw(3, 5)
    detail = f"{type(error).__name__}: {error}"
    assert loaded.faults[0] == FaultReport("unexpected_error", "c", "c/0", 4, 3, detail)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "disk"), DataError("of the run"), AssertionError("ours"), NameError("typo")]
)
def test_pair_dataset__an_error_of_the_machine_or_the_program_passes(error: Exception) -> None:
    with pytest.raises(type(error)):
        _broken(4, error=error)[Draw(3, 4)]


def test_pair_dataset__an_exception_of_every_sample_ends_the_run_with_its_message() -> None:
    def sample(*_: object) -> Sample:
        raise TypeError("a mistake in the program")

    with pytest.raises(DataError, match=r"unexpected_error \(TypeError: a mistake in the program\)"):
        PairDataset(SOURCES, sample, 7)[Draw(0, 4)]


def test_pair_dataset__fault_reports_are_short_and_encodable() -> None:
    error = SampleFault("read_failed", "\ud800" + "x" * 10_000, "\udcff" * 9_999)
    report = _broken(4, error=error)[Draw(3, 4)].faults[0]
    assert report.detail.encode().startswith(rb"\ud800xxx")
    assert max(len(report.detail), len(report.key)) < 2_000


def test_pair_dataset__nothing_usable_is_an_error_that_names_source_and_reason() -> None:
    with pytest.raises(DataError, match=r"source 'a': sample 1 and 24 others .* image_undecodable \(made so\)"):
        _broken(0, 1, 2)[Draw(0, 1)]


def test_pair_dataset__replacement_keeps_the_language_of_the_batch() -> None:
    def sample(draw: Draw, record: PairRecord, *_: Any) -> str:
        if draw.sample_id == 0:
            raise SampleFault("image_missing", "")
        return record.key

    dataset = PairDataset([FakeSource("m", ["ko", "en", "en"] * 4)], sample, 0)
    assert dataset[Draw(0, 0)].sample == "m/1"
    assert dataset[Draw(0, 0, "ko")].sample == "m/3"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_build_loader__a_worker_that_is_killed_ends_the_run_with_an_error() -> None:
    def sample(draw: Draw, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> Sample:
        if draw.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return _sample(draw, record, generator, repairs)

    sampler = RankBatchSampler(build_order(SOURCES, CONFIGS, 4, 7), start_step=0, max_steps=40, rank=0, world_size=1)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed by signal|exited unexpectedly)"):
        list(build_loader(PairDataset(SOURCES, sample, 7), sampler, _collate, 2))


ORDER = BatchOrder(lengths=(10,), weights=(1.0,), global_batch_size=8, seed=0)


def _data(trainer: Any = None) -> StageDataModule:
    data = StageDataModule(seed=0, max_steps=6)
    data.trainer = trainer
    return data


def test_build_sampler__without_a_trainer_serves_whole_batches() -> None:
    batches = list(_data().build_sampler(ORDER))
    assert [[draw.sample_id for draw in batch] for batch in batches] == [ORDER.batch(k).tolist() for k in range(6)]


@pytest.mark.parametrize("rank", [0, 1])
def test_build_sampler__share_of_the_trainers_rank(rank: int) -> None:
    trainer = SimpleNamespace(global_rank=rank, world_size=2)
    batches = list(_data(trainer).build_sampler(ORDER))
    assert len(batches) == 6
    shares = [ORDER.batch(step).reshape(2, 4)[rank].tolist() for step in range(6)]
    assert [[draw.sample_id for draw in batch] for batch in batches] == shares


def test_state_dict__counts_steps_trained_on_and_resumes_there() -> None:
    state = _data(SimpleNamespace(global_step=4)).state_dict()
    assert state == {"next_step": 4}
    resumed = _data()
    resumed.load_state_dict(state)
    assert list(resumed.build_sampler(ORDER)) == list(_data().build_sampler(ORDER))[4:]
    assert resumed.state_dict() == state
