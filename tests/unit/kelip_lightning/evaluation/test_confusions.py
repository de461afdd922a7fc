"""Confusions against a loop over all pairs of classes."""

import numpy as np
import pytest
import torch

from kelip_lightning.evaluation.confusions import Confusion, worst_confusions


@pytest.mark.parametrize("seed", range(3))
def test_worst_confusions__equal_a_loop_over_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 5, 60), rng.integers(0, 5, 60)
    expected = []
    for true in range(5):
        for wrong in range(5):
            count = int(((labels == true) & (predicted == wrong)).sum())
            if true != wrong and count:
                expected.append((-count / int((labels == true).sum()), -count, true, wrong))
    found = worst_confusions(torch.from_numpy(labels), torch.from_numpy(predicted), 6, top=100)
    assert [(-one.share, -one.count, one.true, one.predicted) for one in found] == sorted(expected)
    assert worst_confusions(torch.from_numpy(labels), torch.from_numpy(predicted), 6) == found[:10]


def test_worst_confusions__equal_shares_by_count_then_ids_and_right_items_never() -> None:
    labels, predicted = torch.tensor([0, 0, 1, 2, 2, 2, 2, 3]), torch.tensor([1, 0, 2, 3, 3, 2, 2, 3])
    found = worst_confusions(labels, predicted, 4)
    assert found == [
        Confusion(true=1, predicted=2, count=1, share=1.0),
        Confusion(true=2, predicted=3, count=2, share=0.5),
        Confusion(true=0, predicted=1, count=1, share=0.5),
    ]
    assert worst_confusions(labels, labels, 4) == []
    assert worst_confusions(labels[:0], labels[:0], 4) == []


@pytest.mark.parametrize(
    ("labels", "predicted", "top", "message"),
    [
        ([0, 1], [0], 10, "of one length"),
        ([0, 1], [0, 2], 10, r"classes must lie in \[0, 2\), got 0 to 2"),
        ([0, -1], [0, 1], 10, "got -1 to 1"),
        ([0], [0], 0, "top must be at least 1"),
    ],
)
def test_worst_confusions__refuse(labels: list[int], predicted: list[int], top: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        worst_confusions(torch.tensor(labels), torch.tensor(predicted), 2, top)
