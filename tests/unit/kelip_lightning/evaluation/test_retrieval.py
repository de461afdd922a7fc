"""Ranks and recalls against a naive loop and against torchmetrics."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

from kelip_lightning.evaluation.retrieval import group_ranks, median_rank, recall_at, retrieval_ranks


def _features(count: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _naive_rank(scores: np.ndarray, right: set[int]) -> int:
    """Wrong items met before the first right one, going down the scores, wrong ones first among equals."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item in right))
    return next(place for place, item in enumerate(order) if item in right)


@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_retrieval_ranks__equals_naive_loop(chunk: int) -> None:
    queries, gallery = _features(23, 6, 0), _features(31, 6, 1)
    target = torch.randint(0, 31, (23,), generator=torch.Generator().manual_seed(2))
    scores = (queries @ gallery.T).numpy()
    expected = [_naive_rank(row, {int(own)}) for row, own in zip(scores, target, strict=True)]
    ranks = retrieval_ranks(queries, gallery, target, chunk)
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == expected
    for k, recall in recall_at(ranks).items():
        assert recall == pytest.approx(np.mean([rank < k for rank in expected]))


@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_group_ranks__equals_naive_loop_with_several_images_per_caption(chunk: int) -> None:
    captions, images = _features(9, 6, 3), _features(40, 6, 4)
    image_captions = torch.arange(40) % 9
    scores = (captions @ images.T).numpy()
    expected = [
        _naive_rank(row, set(torch.nonzero(image_captions == caption).flatten().tolist()))
        for caption, row in enumerate(scores)
    ]
    assert group_ranks(captions, images, torch.arange(9), image_captions, chunk).tolist() == expected


def test_group_ranks__one_image_per_caption_equals_retrieval_ranks() -> None:
    captions, images = _features(12, 5, 5), _features(12, 5, 6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(7))
    ranks = group_ranks(captions, images, torch.arange(12), order)
    assert torch.equal(ranks, retrieval_ranks(captions, images, order.argsort()))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_at__equals_torchmetrics(k: int) -> None:
    queries, gallery = _features(15, 4, 8), _features(20, 4, 9)
    target = torch.randint(0, 20, (15,), generator=torch.Generator().manual_seed(10))
    scores = queries @ gallery.T
    right = torch.zeros(15, 20, dtype=torch.bool).scatter_(1, target[:, None], True)
    index = torch.arange(15)[:, None].expand(15, 20)
    ours = recall_at(retrieval_ranks(queries, gallery, target), (k,))[k]
    # With one right item, recall@k and hit rate@k are the same number.
    for metric in (RetrievalRecall(top_k=k), RetrievalHitRate(top_k=k)):
        assert ours == pytest.approx(metric(scores.flatten(), right.flatten(), index.flatten()).item())


@pytest.mark.parametrize("k", [1, 5, 10])
def test_group_ranks__equals_torchmetrics_hit_rate(k: int) -> None:
    captions, images = _features(6, 4, 11), _features(25, 4, 12)
    image_captions = torch.arange(25) % 6
    right = torch.arange(6)[:, None] == image_captions[None, :]
    index = torch.arange(6)[:, None].expand(6, 25)
    ours = recall_at(group_ranks(captions, images, torch.arange(6), image_captions), (k,))[k]
    theirs = RetrievalHitRate(top_k=k)((captions @ images.T).flatten(), right.flatten(), index.flatten())
    assert ours == pytest.approx(theirs.item())


def test_retrieval_ranks__ties_count_against_us() -> None:
    same = torch.zeros(4, 4).index_fill_(1, torch.tensor(0), 1.0)
    assert retrieval_ranks(same, same, torch.arange(4)).tolist() == [3, 3, 3, 3]
    assert recall_at(retrieval_ranks(same, same, torch.arange(4)))[1] == 0.0


def test_group_ranks__ties_among_right_items_do_not_count() -> None:
    images = torch.eye(3)[[0, 0, 1, 2]]
    ranks = group_ranks(torch.eye(3)[[0]], images, torch.tensor([7]), torch.tensor([7, 7, 8, 9]))
    assert ranks.tolist() == [0]
    tied_with_wrong = group_ranks(torch.eye(3)[[0]], images, torch.tensor([7]), torch.tensor([7, 8, 8, 9]))
    assert tied_with_wrong.tolist() == [1]


def test_median_rank__counts_from_one() -> None:
    assert median_rank(torch.tensor([0, 0, 0])) == 1.0
    assert median_rank(torch.tensor([0, 3])) == 2.5


def test_retrieval_ranks__rejects_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="share E"):
        retrieval_ranks(torch.rand(2, 3), torch.rand(2, 4), torch.arange(2))
    with pytest.raises(ValueError, match="expected 2 indices"):
        retrieval_ranks(torch.rand(2, 3), torch.rand(2, 3), torch.arange(3))
    with pytest.raises(ValueError, match=r"target must lie in \[0, 2\)"):
        retrieval_ranks(torch.rand(2, 3), torch.rand(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="at least one right item"):
        group_ranks(torch.rand(2, 3), torch.rand(2, 3), torch.arange(2), torch.zeros(2, dtype=torch.int64))
