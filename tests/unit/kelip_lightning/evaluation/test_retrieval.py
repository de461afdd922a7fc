"""Retrieval against CLIP_benchmark, ECCV Caption, torchmetrics and naive NumPy loops."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import zeroshot_retrieval
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate
from torchmetrics.retrieval import RetrievalRecall as TheirRetrievalRecall

from data_modules.benchmarks.evaluation_sets import shared_positives
from kelip_lightning.evaluation.retrieval import CaptionRetrieval, RetrievalRecall
from tests.embeddings import random_rows, tied_rows, trained_rows

KS = (1, 5, 10)
THEIRS = {"image_to_text": "text_retrieval_recall", "text_to_image": "image_retrieval_recall"}
"""Our direction -> its name in CLIP_benchmark."""


@dataclass(frozen=True)
class Case:
    images: Tensor
    texts: Tensor
    owners: Tensor
    """int64 (M,), ascending: the image of each text."""
    has_ties: bool = False

    @property
    def pairs(self) -> Tensor:
        return torch.stack([self.owners, torch.arange(len(self.owners))], dim=1)


def _owners(num_images: int, most: int) -> Tensor:
    """Five texts per image, or a varying number from 1 to `most`."""
    counts = torch.full((num_images,), 5)
    if most:
        counts = torch.randint(1, most + 1, (num_images,), generator=torch.Generator().manual_seed(most))
    return torch.arange(num_images).repeat_interleave(counts)


def _random(most: int) -> Case:
    owners = _owners(37, most)
    return Case(random_rows(37, 6, 0), random_rows(len(owners), 6, 1), owners)


def _trained(most: int) -> Case:
    owners, images = _owners(53, most), random_rows(53, 8, 2)
    return Case(images, trained_rows(owners, images, 3, noise=1.0), owners)


def _tied(most: int) -> Case:
    owners = _owners(40, most)
    return Case(tied_rows(40, 6, 4), tied_rows(len(owners), 6, 5), owners, has_ties=True)


def _duplicated(most: int) -> Case:
    """Each text is its image's row, and images come three times; 150 of them, where torch.topk sorts in parts."""
    owners, images = _owners(150, most), tied_rows(50, 12, 6)[torch.arange(150) % 50]
    return Case(images, images[owners], owners, has_ties=True)


CASES: dict[str, Callable[[int], Case]] = {
    "random": _random,
    "trained": _trained,
    "tied": _tied,
    "duplicated": _duplicated,
}


@pytest.fixture(params=[(name, most) for name in CASES for most in (0, 7)], ids=lambda one: f"{one[0]}-{one[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    name, most = request.param
    return CASES[name](most)


def _computed(metric: RetrievalRecall, case: Case, batch: int = 16, seed: int = 0) -> dict[str, float]:
    """Rows added in shuffled order, in batches that need not divide their number."""
    generator = torch.Generator().manual_seed(seed)
    for ids in torch.randperm(len(case.images), generator=generator).split(batch):
        metric.update(images=case.images[ids], image_ids=ids)
    for ids in torch.randperm(len(case.texts), generator=generator).split(batch):
        metric.update(texts=case.texts[ids], text_ids=ids)
    return {name: value.item() for name, value in metric.compute().items()}


class _GivenEmbeddings:
    def __init__(self, case: Case) -> None:
        self._case = case

    def encode_image(self, images: Tensor) -> Tensor:
        return self._case.images[images]

    def encode_text(self, texts: Tensor) -> Tensor:
        return self._case.texts[texts]


def _clip_benchmark(case: Case, batch: int) -> dict[str, float]:
    texts = [torch.nonzero(case.owners == image)[:, 0].tolist() for image in range(len(case.images))]
    batches = [(ids, [texts[one] for one in ids.tolist()]) for ids in torch.arange(len(case.images)).split(batch)]
    found: dict[str, float] = zeroshot_retrieval.evaluate(
        _GivenEmbeddings(case), batches, torch.tensor, "cpu", amp=False, recall_k_list=KS
    )
    return found


@pytest.mark.parametrize("batch", [7, 64])
def test_topk_rule__equals_clip_benchmark(case: Case, batch: int) -> None:
    found = _computed(RetrievalRecall(case.pairs, tie_rule="topk"), case, batch)
    theirs = _clip_benchmark(case, batch)
    for direction, name in THEIRS.items():
        for k in KS:
            assert found[f"{direction}_R@{k}"] == pytest.approx(theirs[f"{name}@{k}"], abs=1e-6)
    assert found["mean_recall"] == pytest.approx(np.mean([theirs[f"{n}@{k}"] for n in THEIRS.values() for k in KS]))


def test_topk_hits__equal_clip_benchmark_item_by_item(case: Case) -> None:
    metric = RetrievalRecall(case.pairs, tie_rule="topk")
    _computed(metric, case)
    scores = case.texts @ case.images.T
    positive = torch.nn.functional.one_hot(case.owners, len(case.images)).bool()
    for column, k in enumerate(KS):
        to_text = zeroshot_retrieval.recall_at_k(scores.T, positive.T, k) > 0
        to_image = zeroshot_retrieval.recall_at_k(scores, positive, k) > 0
        assert metric.outcomes["image_to_text"].topk_hits[:, column].tolist() == to_text.tolist()
        assert metric.outcomes["text_to_image"].topk_hits[:, column].tolist() == to_image.tolist()


def _naive_ranks(scores: np.ndarray, right: Sequence[set[int]]) -> np.ndarray:
    """Wrong items that score at least as high as the best right one."""
    ranks = []
    for row, own in zip(scores, right, strict=True):
        best = max(row[item] for item in own)
        ranks.append(sum(1 for item, score in enumerate(row) if item not in own and score >= best))
    return np.array(ranks)


def test_pessimistic_rule__equals_naive_loop_and_topk_where_nothing_ties(case: Case) -> None:
    metric = RetrievalRecall(case.pairs)
    found = _computed(metric, case, batch=9)
    scores, owners = (case.texts @ case.images.T).numpy(), case.owners.numpy()
    naive = {
        "image_to_text": _naive_ranks(scores.T, [set(np.flatnonzero(owners == one)) for one in range(scores.shape[1])]),
        "text_to_image": _naive_ranks(scores, [{int(own)} for own in owners]),
    }
    for direction, ranks in naive.items():
        assert metric.outcomes[direction].pessimistic_ranks.tolist() == ranks.tolist()
        for k in KS:
            assert found[f"{direction}_R@{k}"] == pytest.approx(np.mean(ranks < k), abs=1e-9)
        assert found[f"{direction}_median_rank"] == np.median(ranks) + 1
    by_topk = _computed(RetrievalRecall(case.pairs, tie_rule="topk"), case)
    if case.has_ties:
        assert all(by_topk[name] >= value for name, value in found.items() if "R@" in name)
        assert by_topk["mean_recall"] > found["mean_recall"]
    else:
        assert {name: one for name, one in by_topk.items() if "R@" in name} == {
            name: one for name, one in found.items() if "R@" in name
        }


@pytest.mark.parametrize("per_image", [1, 5])
def test_collapsed_model__zero_and_k_of_n(per_image: int) -> None:
    owners = torch.arange(40).repeat_interleave(per_image)
    case = Case(tied_rows(1, 8, 0).repeat(40, 1), tied_rows(1, 8, 0).repeat(len(owners), 1), owners)
    found = _computed(RetrievalRecall(case.pairs), case)
    assert {value for name, value in found.items() if "median" not in name} == {0.0}
    by_topk = _computed(RetrievalRecall(case.pairs, tie_rule="topk"), case)
    for k in KS:
        assert by_topk[f"text_to_image_R@{k}"] == pytest.approx(k / 40)
        if per_image == 1:
            assert by_topk[f"image_to_text_R@{k}"] == pytest.approx(k / 40)


def test_without_positives__texts_have_the_ids_of_their_images() -> None:
    case = _trained(7)
    metric, by_owner = RetrievalRecall(case.pairs), RetrievalRecall()
    ids = torch.tensor([10 * one + 3 for one in range(len(case.images))])
    by_owner.update(case.images, ids, case.texts[:90], ids[case.owners[:90]])
    by_owner.update(texts=case.texts[90:], text_ids=ids[case.owners[90:]])
    found = _computed(metric, case)
    assert {name: value.item() for name, value in by_owner.compute().items()} == found
    assert by_owner.outcomes["text_to_image"].ids.tolist() == ids[case.owners].tolist()
    texts = random_rows(3, 8, 9)  # of no image: wrong answers, and no queries
    by_owner.update(texts=texts, text_ids=torch.tensor([1, 2, 10_000]))
    distracted = {name: value.item() for name, value in by_owner.compute().items()}
    assert len(by_owner.outcomes["text_to_image"].ids) == len(case.texts)
    assert distracted["text_to_image_R@1"] == found["text_to_image_R@1"]
    assert distracted["image_to_text_median_rank"] >= found["image_to_text_median_rank"]


@pytest.mark.parametrize("k", [1, 3])
def test_recalls__equal_torchmetrics(k: int) -> None:
    case = _random(3)
    found = _computed(RetrievalRecall(case.pairs, ks=(k,)), case)
    scores = 1 + case.texts @ case.images.T  # torchmetrics ignores items that score 0 or less
    positive = torch.nn.functional.one_hot(case.owners, len(case.images)).bool()
    query = torch.arange(len(scores))[:, None].expand_as(scores)
    for metric in (RetrievalHitRate(top_k=k), TheirRetrievalRecall(top_k=k)):  # the same with one correct image
        theirs = metric(scores.flatten(), positive.flatten(), query.flatten()).item()
        assert found[f"text_to_image_R@{k}"] == pytest.approx(theirs, abs=1e-6)
    query = torch.arange(scores.shape[1])[:, None].expand_as(scores.T)
    theirs = RetrievalHitRate(top_k=k)(scores.T.flatten(), positive.T.flatten(), query.flatten()).item()
    assert found[f"image_to_text_R@{k}"] == pytest.approx(theirs, abs=1e-6)


def test_identical_captions__share_positives() -> None:
    generator = np.random.default_rng(0)
    case = _trained(5)
    words = [f"caption {number}" for number in generator.integers(0, 40, len(case.texts))]
    plain = {(int(image), text) for image, text in case.pairs}
    expected = {(image, other) for image, text in plain for other, word in enumerate(words) if word == words[text]}
    found = shared_positives(case.pairs, words)
    assert len(found) == len(expected) > len(plain)
    assert set(map(tuple, found.tolist())) == expected
    texts = trained_rows(torch.tensor([int(word.split()[1]) for word in words]), random_rows(40, 8, 11), 0, noise=0)
    case = Case(case.images, texts, case.owners)
    metric = RetrievalRecall(found)
    recalls = _computed(metric, case)
    scores = (case.texts @ case.images.T).numpy()
    to_text = [{text for one, text in expected if one == image} for image in range(len(case.images))]
    to_image = [{image for image, one in expected if one == text} for text in range(len(texts))]
    for direction, ranks in (
        ("image_to_text", _naive_ranks(scores.T, to_text)),
        ("text_to_image", _naive_ranks(scores, to_image)),
    ):
        assert metric.outcomes[direction].pessimistic_ranks.tolist() == ranks.tolist()
        assert recalls[f"{direction}_R@5"] == pytest.approx(np.mean(ranks < 5), abs=1e-9)
    assert shared_positives(case.pairs, [str(one) for one in range(len(texts))]).tolist() == case.pairs.tolist()


def test_top_texts__best_first_with_probabilities_over_all_texts() -> None:
    case = _trained(7)
    shown = torch.tensor([40, 3, 17])
    metric = RetrievalRecall(case.pairs, shown_ids=shown, logit_scale=20.0)
    _computed(metric, case)
    assert metric.top_texts is not None
    probabilities = (20.0 * case.images[[3, 17, 40]] @ case.texts.T).softmax(dim=1)
    assert metric.top_texts.image_ids.tolist() == [3, 17, 40]
    assert metric.top_texts.match_ids.tolist() == probabilities.argsort(dim=1, descending=True)[:, :5].tolist()
    torch.testing.assert_close(metric.top_texts.probabilities, probabilities.sort(descending=True)[0][:, :5])


def _captions(rows: Callable[[int, int, int], Tensor]) -> tuple[Tensor, Tensor]:
    if rows is tied_rows:
        return rows(30, 6, 0), rows(30, 6, 1)
    ko = rows(30, 8, 0)
    offset = 2 * random_rows(1, 8, 5)
    return F.normalize(ko + offset, dim=1), trained_rows(torch.arange(30), ko, 1, noise=1.5)


def _centred(rows: np.ndarray) -> np.ndarray:
    moved = rows - rows.mean(axis=0)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [random_rows, tied_rows])
def test_caption_retrieval__equals_numpy_and_topk(rows: Callable[[int, int, int], Tensor]) -> None:
    ko, en = _captions(rows)
    ids = 5 + 2 * torch.randperm(30)
    metrics = {rule: CaptionRetrieval(tie_rule=rule) for rule in ("pessimistic", "topk")}
    for metric in metrics.values():
        metric.update(ko[:13], ids[:13], en, ids)
        metric.update(ko[9:], ids[9:])  # some of them again
    order = torch.argsort(ids)
    plain = {"ko": ko[order].double().numpy(), "en": en[order].double().numpy()}
    values = {rule: metric.compute() for rule, metric in metrics.items()}
    spaces = {"": plain}
    if rows is random_rows:  # centring rounds, which breaks exact ties
        spaces["_centred"] = {name: _centred(one) for name, one in plain.items()}
    for suffix, by_language in spaces.items():
        for source, target in (("ko", "en"), ("en", "ko")):
            scores, task = by_language[source] @ by_language[target].T, f"{source}_to_{target}{suffix}"
            ranks = _naive_ranks(scores, [{one} for one in range(30)])
            for k in KS:
                assert values["pessimistic"][f"{task}_R@{k}"].item() == pytest.approx(np.mean(ranks < k))
                hits = torch.from_numpy(scores).float().topk(k, dim=1).indices == torch.arange(30)[:, None]
                assert values["topk"][f"{task}_R@{k}"].item() == pytest.approx(hits.any(dim=1).double().mean().item())
    matrix = _centred(plain["ko"]) @ _centred(plain["en"]).T
    expected = np.diag(matrix).mean() - matrix[~np.eye(30, dtype=bool)].mean()
    assert values["topk"]["matched_minus_random"].item() == pytest.approx(expected, abs=1e-6)
    assert len(metrics["topk"].matched_minus_random) == 30
    assert metrics["topk"].outcomes["ko_to_en"].ids.tolist() == ids[order].tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite__are_counted(bad: float) -> None:
    rows, ids = random_rows(9, 4, 0), torch.arange(9)
    rows[[2, 5], 1] = bad
    for what, update in (
        ("image", lambda: RetrievalRecall().update(rows, ids)),
        ("text", lambda: RetrievalRecall().update(texts=rows, text_ids=ids)),
        ("ko caption", lambda: CaptionRetrieval().update(rows, ids)),
        ("en caption", lambda: CaptionRetrieval().update(en=rows, en_ids=ids)),
    ):
        with pytest.raises(ValueError, match=f"2 of 9 {what} embeddings are not finite"):
            update()


ROWS, IDS = random_rows(3, 4, 0), torch.arange(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": ROWS}, "images and image_ids must be given together"),
        ({"text_ids": IDS}, "texts and text_ids must be given together"),
        ({"images": ROWS, "image_ids": IDS[:2]}, r"images must be \(B, E\) with B ids, got \(3, 4\) and \(2,\)"),
        ({"images": ROWS[0], "image_ids": IDS}, r"images must be \(B, E\) with B ids, got \(4,\) and \(3,\)"),
        ({"texts": ROWS, "text_ids": IDS.float()}, "the ids of texts must be integers"),
    ],
)
def test_update__refuses_what_does_not_fit(given: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalRecall().update(**given)
    names = {"images": "ko", "image_ids": "ko_ids", "texts": "en", "text_ids": "en_ids"}
    with pytest.raises(ValueError, match=r"given together|must be \(B, E\)|must be integers"):
        CaptionRetrieval().update(**{names[name]: value for name, value in given.items()})


def test_compute__refuses_what_is_missing() -> None:
    def computed(positives: list[list[int]] | None, num_texts: int = 3) -> SimpleNamespace:
        metric = RetrievalRecall(None if positives is None else torch.tensor(positives))
        metric.update(ROWS, IDS, ROWS[:num_texts], IDS[:num_texts])
        return SimpleNamespace(values=metric.compute())

    with pytest.raises(ValueError, match="retrieval needs images and texts, got 3 and 0"):
        computed(None, 0)
    with pytest.raises(ValueError, match="every query must have at least one correct item"):
        computed(None, 2)
    with pytest.raises(ValueError, match="positives names 2 text ids that were not added"):
        computed([[0, 0], [1, 8], [2, 9]])
    with pytest.raises(ValueError, match="1 pairs twice"):
        computed([[0, 0], [1, 1], [2, 2], [1, 1]])
    captions = CaptionRetrieval()
    captions.update(ROWS, IDS, ROWS, IDS + 1)
    with pytest.raises(ValueError, match="got 3 in ko and 3 in en, 2 of them with equal ids"):
        captions.compute()
