"""Groups: every sample once an epoch, no run in two groups, the same batches whatever reads them."""

from pathlib import Path

import numpy as np
import pytest

from data_modules.config import ImageDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.order.groups import GroupedOrder, GroupRows, grouped
from data_modules.order.mixture import build_order
from data_modules.order.sampling import BatchOrder
from data_modules.sources.config import SourceConfig
from data_modules.sources.rows import EveryNth
from tests.unit.data_modules.corpora import FakeSource


def test_group_rows__of_the_example() -> None:
    rows = GroupRows(EveryNth(0, 1, 13), 0, 3, 2)
    assert rows.take(np.arange(len(rows))).tolist() == [0, 1, 6, 7, 12]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65])
@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_group_rows__of_all_groups_are_every_index_once(length: int, num_groups: int) -> None:
    parts = [GroupRows(EveryNth(5, 2, length), group, num_groups, 8) for group in range(num_groups)]
    found = [part.take(np.arange(len(part))).tolist() for part in parts]
    assert sorted(one for part in found for one in part) == (5 + 2 * np.arange(length)).tolist()
    runs = [{(one - 5) // 2 // 8 for one in part} for part in found]
    assert sum(map(len, runs)) == len(set().union(*runs)), "no run is in two groups"


def order_of(groups: int, *, batch: int = 12, length: int = 480, weight: float = 1.0) -> BatchOrder | GroupedOrder:
    return grouped(BatchOrder((length,), (weight,), batch, 7, 96, 8), groups)


def test_grouped__an_epoch_has_every_sample_once() -> None:
    order = order_of(4)
    ids = np.concatenate([order.batch(step) for step in range(40)])
    assert sorted(ids.tolist()) == list(range(480))
    assert order.epoch_length == 480


def test_grouped__a_part_of_the_batch_stays_in_its_runs() -> None:
    order = order_of(4)
    assert isinstance(order, GroupedOrder)
    for step in range(100):
        parts = order.batch(step).reshape(4, 3)
        assert [set((part // 8 % 4).tolist()) for part in parts] == [{0}, {1}, {2}, {3}]
    assert (order.batches(3, 9) == np.stack([order.batch(step) for step in range(3, 9)])).all()


def test_grouped__parts_are_shuffled_apart_and_by_windows() -> None:
    order = order_of(4)
    firsts = [order.batch(step).reshape(4, 3)[:, 0] // 32 for step in range(40)]
    assert len({tuple(one.tolist()) for one in np.array(firsts).T}) == 4, "the groups have permutations of their own"
    first_window = np.concatenate([order.batch(step)[:3] for step in range(8)])  # 24 samples of group 0
    assert len(set((first_window // 8).tolist())) == 3, "three runs of 8"


def test_build_order__groups_of_languages_apart(tmp_path: Path) -> None:
    source = FakeSource("s", ["ko", "en"] * 160)
    config = {"s": SourceConfig(files=[str(tmp_path / "a.tar")], caption_fields=["txt"])}
    for options in ({"single_language_batches": True}, {"language_weights": {"ko": 1.0}}, {}):
        settings = OrderConfig(shuffle_window=64, run_length=8, groups=4, **options)
        order = build_order([source], config, 16, 0, settings)
        ids = np.concatenate([order.batch(step) for step in range(20)])
        assert sorted(ids.tolist()) == list(range(320))


def test_grouped__more_groups_than_runs_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"data\.order\.groups = 12 must be at most 10, the runs of order\.run_length = 8"
    ):
        order_of(12, length=80)


def test_config__groups_need_a_window_and_divide_the_batch() -> None:
    with pytest.raises(ValueError, match=r"order\.groups = 2 has no effect without an order\.shuffle_window"):
        OrderConfig(groups=2)
    sources = {"s": SourceConfig(files=["a.tar"])}
    with pytest.raises(ValueError, match=r"global_batch_size = 10 must be a multiple of order\.groups = 4"):
        ImageDataConfig(sources=sources, global_batch_size=10, order=OrderConfig(groups=4, shuffle_window=64))
