"""Ranks and hits of blocks against naive loops, torch.topk and torchmetrics."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

from kelip_lightning.evaluation.ranks import (
    QueryOutcomes,
    best_correct_ranks,
    block_size,
    checked_tie_rule,
    median_rank,
    outcomes_of_scores,
    padded_positives,
    recall_at,
    retrieval_ranks,
    scores_of,
)
from tests.embeddings import random_rows, tied_rows

KS = (1, 5, 10)


def _naive_rank(scores: np.ndarray, right: set[int]) -> int:
    """Wrong items met before the first right one, going down the scores, wrong ones first among equals."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item in right))
    return next(place for place, item in enumerate(order) if item in right)


@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_retrieval_ranks__equals_naive_loop(chunk: int) -> None:
    queries, gallery = random_rows(23, 6, 0), random_rows(31, 6, 1)
    target = torch.randint(0, 31, (23,), generator=torch.Generator().manual_seed(2))
    scores = (queries @ gallery.T).numpy()
    expected = [_naive_rank(row, {int(own)}) for row, own in zip(scores, target, strict=True)]
    ranks = retrieval_ranks(queries, gallery, target, chunk)
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == expected
    for k, recall in recall_at(ranks).items():
        assert recall == pytest.approx(np.mean([rank < k for rank in expected]))


@pytest.mark.parametrize("rows", [random_rows, tied_rows])
@pytest.mark.parametrize(("num_items", "most_correct"), [(9, 1), (40, 5), (150, 3), (700, 4)])
def test_outcomes__equal_a_naive_loop_and_topk(
    rows: Callable[[int, int, int], Tensor], num_items: int, most_correct: int
) -> None:
    generator = np.random.default_rng(num_items)
    scores = scores_of(rows(60, 8, 3), rows(num_items, 8, 4))
    right = [set(generator.permutation(num_items)[: generator.integers(1, most_correct + 1)]) for _ in range(60)]
    pairs = torch.tensor([[query, int(item)] for query, own in enumerate(right) for item in own])
    correct = padded_positives(pairs[torch.randperm(len(pairs))], 60)
    assert [set(row.tolist()) - {-1} for row in correct] == right
    found = outcomes_of_scores(scores, correct, KS)
    assert found.ranks.tolist() == [_naive_rank(row, own) for row, own in zip(scores.numpy(), right, strict=True)]
    for column, k in enumerate(KS):
        best = scores.topk(min(k, num_items), dim=1).indices.tolist()
        hits = [bool(set(top) & own) for top, own in zip(best, right, strict=True)]
        assert found.topk_hits[:, column].tolist() == hits
    is_correct = torch.zeros(scores.shape, dtype=torch.bool)
    is_correct[pairs[:, 0], pairs[:, 1]] = True
    assert best_correct_ranks(scores, is_correct).tolist() == found.ranks.tolist()


def test_outcomes__ties_among_right_items_do_not_count() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert outcomes_of_scores(scores, torch.tensor([[0, 1]]), KS).ranks.tolist() == [0]
    assert outcomes_of_scores(scores, torch.tensor([[0, -1]]), KS).ranks.tolist() == [1]
    assert outcomes_of_scores(scores, torch.tensor([[0, 2]]), KS).ranks.tolist() == [1]


@pytest.mark.parametrize("k", KS)
def test_recall_at__equals_torchmetrics(k: int) -> None:
    captions, images = random_rows(6, 4, 11), random_rows(25, 4, 12)
    image_captions = torch.arange(25) % 6
    correct = torch.arange(6)[:, None] == image_captions[None, :]
    to_image = recall_at(best_correct_ranks(captions @ images.T, correct), (k,))[k]
    to_text = recall_at(retrieval_ranks(images, captions, image_captions), (k,))[k]
    scores = 1 + captions @ images.T  # RetrievalRecall ignores items that score 0 or less
    rows, columns = torch.arange(6)[:, None].expand(6, 25), torch.arange(25)[None, :].expand(6, 25)
    hit_rate = RetrievalHitRate(top_k=k)
    assert to_image == pytest.approx(hit_rate(scores.flatten(), correct.flatten(), rows.flatten()).item())
    # With one correct item, recall@k and hit rate@k are the same number.
    for metric in (RetrievalRecall(top_k=k), RetrievalHitRate(top_k=k)):
        theirs = metric(scores.T.flatten(), correct.T.flatten(), columns.T.flatten())
        assert to_text == pytest.approx(theirs.item())


def test_retrieval_ranks__ties_count_against_us() -> None:
    same = torch.zeros(4, 4).index_fill_(1, torch.tensor(0), 1.0)
    assert retrieval_ranks(same, same, torch.arange(4)).tolist() == [3, 3, 3, 3]
    assert recall_at(retrieval_ranks(same, same, torch.arange(4)))[1] == 0.0


@pytest.mark.parametrize("num_items", [12, 60])
def test_ranks_of_a_rule__are_below_k_where_it_has_a_hit(num_items: int) -> None:
    """So few items that the sets which torch.topk finds for 1, 5 and 10 are nested."""
    scores = scores_of(tied_rows(80, 6, 5), tied_rows(num_items, 6, 6))
    ranks, hits = outcomes_of_scores(scores, (torch.arange(80) % num_items)[:, None], KS)
    outcomes = QueryOutcomes(torch.arange(80), ranks, hits, KS)
    for k in KS:
        for rule in ("pessimistic", "topk"):
            assert (outcomes.ranks(rule) < k).double().mean().item() == outcomes.recall(k, rule)
    assert outcomes.ranks("pessimistic").tolist() == ranks.tolist()
    assert (outcomes.ranks("topk") <= ranks).all()
    assert outcomes.recall(10, "topk") > outcomes.recall(10, "pessimistic")


def test_scores_of__are_float32_under_autocast() -> None:
    queries, gallery = random_rows(9, 16, 0), random_rows(11, 16, 1)
    expected = queries.double() @ gallery.double().T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scores_of(queries, gallery)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, atol=1e-6, rtol=0)


def test_median_rank__counts_from_one() -> None:
    assert median_rank(torch.tensor([0, 0, 0])) == 1.0
    assert median_rank(torch.tensor([0, 3])) == 2.5


@pytest.mark.parametrize(("num_gallery", "expected"), [(0, 1024), (5000, 1024), (25_000, 335), (1 << 24, 1)])
def test_block_size__keeps_32_mib_of_scores(num_gallery: int, expected: int) -> None:
    assert block_size(num_gallery) == expected


def test_retrieval_ranks__rejects_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="share E"):
        retrieval_ranks(torch.rand(2, 3), torch.rand(2, 4), torch.arange(2))
    with pytest.raises(ValueError, match="expected 2 indices"):
        retrieval_ranks(torch.rand(2, 3), torch.rand(2, 3), torch.arange(3))
    with pytest.raises(ValueError, match=r"target must lie in \[0, 2\)"):
        retrieval_ranks(torch.rand(2, 3), torch.rand(2, 3), torch.tensor([0, 2]))


def test_padded_positives__rejects_what_does_not_fit() -> None:
    for pairs in ([[0, 0]], [[0, 0], [1, 1], [2, 0]]):
        with pytest.raises(ValueError, match="at least one correct item"):
            padded_positives(torch.tensor(pairs), 2)
    with pytest.raises(ValueError, match="1 pairs twice"):
        padded_positives(torch.tensor([[0, 1], [1, 0], [0, 1]]), 2)
    with pytest.raises(ValueError, match="tie_rule = 'random' must be one of pessimistic, topk"):
        checked_tie_rule("random")
