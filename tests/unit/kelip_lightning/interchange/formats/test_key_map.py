"""Entries in both directions, against explicit tensors."""

import pytest
import torch
from torch import Tensor

from kelip_lightning.interchange.formats.key_map import (
    Entry,
    Layout,
    entry,
    stacked,
    to_ours,
    to_theirs,
    weight_and_bias,
)

ROWS = torch.arange(12.0).view(6, 2)


@pytest.mark.parametrize(
    ("one", "ours", "theirs"),
    [
        (entry("a", "b"), {"a": ROWS}, {"b": ROWS}),
        (
            entry("a", "b", Layout.transposed),
            {"a": ROWS},
            {"b": torch.tensor([[0.0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]])},
        ),
        (entry("a", "b", Layout.batched), {"a": torch.tensor([3.0])}, {"b": torch.tensor(3.0)}),
        (entry("a", "b", Layout.batched_twice), {"a": torch.tensor([[[1.0, 2.0]]])}, {"b": torch.tensor([1.0, 2.0])}),
        (Entry(("q", "k", "v"), ("all",)), {"q": ROWS[:2], "k": ROWS[2:4], "v": ROWS[4:]}, {"all": ROWS}),
        (Entry(("all",), ("q", "k", "v")), {"all": ROWS}, {"q": ROWS[:2], "k": ROWS[2:4], "v": ROWS[4:]}),
    ],
    ids=["same", "transposed", "batched", "batched_twice", "into one", "into three"],
)
def test_entry__both_directions(one: Entry, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for result, expected in ((to_theirs([one], ours), theirs), (to_ours([one], theirs), ours)):
        assert result.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(result[name], tensor)


def test_to_theirs__a_tensor_without_an_entry_fails() -> None:
    with pytest.raises(AssertionError, match="forgotten"):
        to_theirs([entry("a", "b")], {"a": ROWS, "forgotten": ROWS})


def test_entries_of_modules() -> None:
    assert weight_and_bias("x", "y") == [entry("x.weight", "y.weight"), entry("x.bias", "y.bias")]
    assert stacked(["x"], ["q", "k"])[1] == Entry(("x.bias",), ("q.bias", "k.bias"))
