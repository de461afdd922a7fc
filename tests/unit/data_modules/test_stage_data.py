"""Where training stands is one integer, and each rank serves its share."""

from types import SimpleNamespace
from typing import Any

import pytest

from data_modules.loading import StageDataModule
from data_modules.order.sampling import BatchOrder

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
