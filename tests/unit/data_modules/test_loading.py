"""The loader: records by id, and the same batches whatever the number of workers."""

import hashlib
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from data_modules import loading
from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault
from data_modules.loading import PairDataset, StageDataModule, build_loader
from data_modules.order.mixture import build_order
from data_modules.order.sampling import BatchOrder, Draw, RankBatchSampler
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from tests.unit.data_modules.corpora import FakeSource
from tests.unit.data_modules.one_by_one import model_seed_of, stream_of

Hook = Callable[[str], None]

SOURCES = [FakeSource("a", ["ko"] * 3), FakeSource("b", ["ko"]), FakeSource("c", ["ko"] * 9)]
CONFIGS = {
    name: SourceConfig(files=["x"], captions={"ko": "x"}, weight=weight)
    for name, weight in (("c", 0.5), ("a", 2.0), ("b", 1.0))
}


class Sample(NamedTuple):
    """What the writer below makes of a draw."""

    key: str
    stream: str
    """Digest of the first bytes of its random stream."""


@dataclass
class Batch:
    """Samples with what a dataset says about them."""

    samples: list[Sample]
    ids: list[int]
    seeds: list[int]
    faults: list[FaultReport]


class Writer:
    """Fills a `Batch`; the hooks, each given the key, may raise faults in either part."""

    def __init__(self, number: int, in_sample: Hook = lambda _: None, in_write: Hook = lambda _: None) -> None:
        self._samples: list[Sample | None] = [None] * number
        self._sampled: dict[int, Sample] = {}
        self._in_sample, self._in_write = in_sample, in_write

    def sample(self, place: int, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> None:
        repairs.append("image_cmyk")
        self._in_sample(record.key)
        self._sampled[place] = Sample(record.key, hashlib.sha256(generator.bytes(16)).hexdigest())

    def write(self, place: int) -> None:
        self._in_write(self._sampled[place].key)
        assert self._samples[place] is None, "each place is written once"
        self._samples[place] = self._sampled.pop(place)

    def finish(self, ids: torch.Tensor, seeds: torch.Tensor, faults: list[FaultReport]) -> Batch:
        assert ids.dtype == seeds.dtype == torch.int64
        samples = [one for one in self._samples if one is not None]
        assert len(samples) == len(self._samples)
        return Batch(samples, ids.tolist(), seeds.tolist(), faults)


def _batches(num_workers: int) -> list[Batch]:
    sampler = RankBatchSampler(build_order(SOURCES, CONFIGS, 4, 7), start_step=1, max_steps=6, rank=0, world_size=1)
    return list(build_loader(PairDataset(SOURCES, Writer, 7), sampler, num_workers))


def test_pair_dataset__ids_follow_the_sources() -> None:
    dataset = PairDataset(SOURCES, Writer, 0)
    expected = [(0, 0), (0, 1), (0, 2), (1, 0), *[(2, index) for index in range(9)]]
    assert dataset.locate(range(13)) == expected
    assert dataset.locate([12, 0, 3, 3]) == [expected[place] for place in (12, 0, 3, 3)]


def test_pair_dataset__each_draw_has_its_own_streams() -> None:
    dataset = PairDataset(SOURCES, Writer, 5)
    draws = [Draw(step, sample_id) for step in range(3) for sample_id in range(3)]
    batch = dataset.load(draws)
    assert [one.stream for one in batch.samples] == [
        hashlib.sha256(stream_of(5, draw).bytes(16)).hexdigest() for draw in draws
    ]
    assert batch.seeds == [model_seed_of(5, draw) for draw in draws]
    assert dataset.load(draws) == batch
    assert PairDataset(SOURCES, Writer, 6).load(draws[:1]).samples != batch.samples[:1]


def test_pair_dataset__more_samples_than_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = [Draw(2, number % 13) for number in range(40)]
    dataset = _broken(11, 12, 5)
    whole = dataset.load(draws)
    assert [one.key for one in whole.samples[:3]] == ["a/0", "a/1", "a/2"]
    monkeypatch.setattr(loading, "_SAMPLES_AT_A_TIME", 3)
    assert dataset.load(draws) == whole
    alone = [dataset.load([draw]) for draw in draws]
    assert [one.samples[0] for one in alone] == whole.samples
    assert [fault for one in alone for fault in one.faults] == whole.faults


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_build_loader__workers_change_nothing(num_workers: int) -> None:
    alone = _batches(0)
    order = build_order(SOURCES, CONFIGS, 4, 7)
    assert [batch.ids for batch in alone] == [order.batch(step).tolist() for step in range(1, 6)]
    assert _batches(num_workers) == alone


@pytest.mark.parametrize("num_workers", [0, 1])
def test_build_loader__leaves_the_global_random_streams(num_workers: int) -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    _batches(num_workers)
    assert states() == before


KEYS = [f"{source.name}/{index}" for source in SOURCES for index in range(len(source))]


def _broken(*bad: int, error: BaseException | None = None, part: str = "in_write") -> PairDataset[Batch]:
    """A dataset in which samples with these ids raise an error in this part."""

    def check(key: str) -> None:
        if KEYS.index(key) in bad:
            raise error or SampleFault("image_undecodable", "made so")

    return PairDataset(SOURCES, lambda number: Writer(number, **{part: check}), 7)


PARTS = pytest.mark.parametrize("part", ["in_sample", "in_write"])


@PARTS
def test_pair_dataset__replaces_a_bad_sample_by_a_good_one_of_its_source(part: str) -> None:
    batch = _broken(11, 12, 5, part=part).load([Draw(3, 0), Draw(3, 11)])
    assert [one.key for one in batch.samples] == ["a/0", "c/4"]
    assert batch.ids == [0, 8], "those 0, 1 and 3 places behind (modulo 9) are bad, 6 places behind is 8"
    expected = _broken().load([Draw(3, 8)])
    assert (batch.samples[1], batch.seeds[1]) == (expected.samples[0], expected.seeds[0]), "with its own streams"
    assert [(one.kind, one.source, one.key, one.sample_id, one.step) for one in batch.faults] == [
        ("image_cmyk", "a", "a/0", 0, 3),
        ("image_undecodable", "c", "c/7", 11, 3),
        ("image_undecodable", "c", "c/8", 12, 3),
        ("image_undecodable", "c", "c/1", 5, 3),
        ("image_cmyk", "c", "c/4", 8, 3),
    ]
    assert [one.is_skipped for one in batch.faults] == [False, True, True, True, False]


@pytest.mark.parametrize(
    "error", [TypeError("no str"), ValueError("odd"), KeyError("x"), AttributeError("y"), RuntimeError("z")]
)
@PARTS
def test_pair_dataset__counts_an_exception_of_one_sample_with_type_and_message(error: Exception, part: str) -> None:
    batch = _broken(4, error=error, part=part).load([Draw(3, 4)])
    assert batch.ids == [5]
    detail = f"{type(error).__name__}: {error}"
    assert batch.faults[0] == FaultReport("unexpected_error", "c", "c/0", 4, 3, detail)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "disk"), DataError("of the run"), AssertionError("ours"), NameError("typo")]
)
@PARTS
def test_pair_dataset__an_error_of_the_machine_or_the_program_passes(error: Exception, part: str) -> None:
    with pytest.raises(type(error)):
        _broken(4, error=error, part=part).load([Draw(3, 4)])


def test_pair_dataset__an_exception_of_every_sample_ends_the_run_with_its_message() -> None:
    with pytest.raises(DataError, match=r"unexpected_error \(TypeError: a mistake in the program\)"):
        _broken(*range(13), error=TypeError("a mistake in the program")).load([Draw(0, 4)])


def test_pair_dataset__fault_reports_are_short_and_encodable() -> None:
    error = SampleFault("read_failed", "\ud800" + "x" * 10_000, "\udcff" * 9_999)
    report = _broken(4, error=error).load([Draw(3, 4)]).faults[0]
    assert report.detail.encode().startswith(rb"\ud800xxx")
    assert max(len(report.detail), len(report.key)) < 2_000


def test_pair_dataset__nothing_usable_is_an_error_that_names_source_and_reason() -> None:
    with pytest.raises(DataError, match=r"source 'a': sample 1 and 24 others .* image_undecodable \(made so\)"):
        _broken(0, 1, 2).load([Draw(0, 1)])


def test_pair_dataset__replacement_keeps_the_language_of_the_batch() -> None:
    def check(key: str) -> None:
        if key == "m/0":
            raise SampleFault("image_missing", "")

    source = FakeSource("m", ["ko", "en", "en"] * 4)
    dataset = PairDataset([source], lambda number: Writer(number, in_write=check), 0)
    assert dataset.load([Draw(0, 0)]).samples[0].key == "m/1"
    assert dataset.load([Draw(0, 0, "ko")]).samples[0].key == "m/3"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_build_loader__a_worker_that_is_killed_ends_the_run_with_an_error() -> None:
    def kill(_: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    dataset = PairDataset(SOURCES, lambda number: Writer(number, in_write=kill), 7)
    sampler = RankBatchSampler(build_order(SOURCES, CONFIGS, 4, 7), start_step=0, max_steps=40, rank=0, world_size=1)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed by signal|exited unexpectedly)"):
        list(build_loader(dataset, sampler, 2))


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
