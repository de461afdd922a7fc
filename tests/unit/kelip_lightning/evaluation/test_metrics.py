"""Ranks, recalls, zero-shot classification and similarity, against naive loops, torchmetrics, open_clip and numpy."""

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from kelip_lightning.evaluation.metrics import (
    class_embeddings,
    class_ranks,
    group_ranks,
    matched_and_random,
    matched_minus_random,
    mean_per_class_recall,
    median_rank,
    recall_at,
    retrieval_ranks,
    top_k_accuracy,
)
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall


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


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_at__equals_torchmetrics(k: int) -> None:
    captions, images = _features(6, 4, 11), _features(25, 4, 12)
    image_captions = torch.arange(25) % 6
    correct = torch.arange(6)[:, None] == image_captions[None, :]
    to_image = recall_at(group_ranks(captions, images, torch.arange(6), image_captions), (k,))[k]
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
    with pytest.raises(ValueError, match="at least one correct item"):
        group_ranks(torch.rand(2, 3), torch.rand(2, 3), torch.arange(2), torch.zeros(2, dtype=torch.int64))


TEMPLATES = ["a photo of a {}.", "{}의 그림", "it is {} here"]


def _random_case(seed: int, num_images: int = 50, num_classes: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.randint(0, num_classes, (num_images,), generator=torch.Generator().manual_seed(seed))
    return _features(num_images, 6, seed), _features(num_classes, 6, seed + 100), labels


def test_class_embeddings__equals_open_clip() -> None:
    torch.manual_seed(1)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    ).eval()
    names, templates = open_clip.IMAGENET_CLASSNAMES[:12], open_clip.OPENAI_IMAGENET_TEMPLATES[:7]
    tokenizer = open_clip.SimpleTokenizer()
    theirs = open_clip.build_zero_shot_classifier(model, tokenizer, names, templates)
    ours = class_embeddings(
        lambda texts: model.encode_text(tokenizer(texts)),
        [[name] for name in names],
        [template("{}") for template in templates],
    )
    torch.testing.assert_close(ours, theirs.T, atol=1e-6, rtol=1e-5)


def test_class_embeddings__several_names_are_a_mean_of_normalised_prompts() -> None:
    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([[len(text), ord(text[0]) % 7, ord(text[-1]) % 5] for text in texts], dtype=torch.float32)

    ours = class_embeddings(encode, [["dog", "개"], ["cat"]], TEMPLATES)
    prompts = [template.format(name) for name in ("dog", "개") for template in TEMPLATES]
    expected = F.normalize(F.normalize(encode(prompts), dim=-1).mean(dim=0), dim=-1)
    torch.testing.assert_close(ours[0], expected)


def test_class_embeddings__keeps_braces_in_a_name_and_fills_particles() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return torch.ones(len(texts), 2)

    class_embeddings(encode, [["bowl {with} braces"], ["사과", "책"]], ["a {c}", "{}{을/를}"])
    expected = {"a bowl {with} braces", "bowl {with} braces를", "a 사과", "사과를", "a 책", "책을"}
    assert len(seen) == 6 and set(seen) == expected  # texts are embedded by length


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([["a"]], [], "at least one template"),
        ([["a"]], ["no place"], "no slots"),
        ([["a"]], ["{} and {}"], "2 slots"),
        ([["a"], []], ["{}"], "at least one name"),
    ],
)
def test_class_embeddings__refuses(names: list[list[str]], templates: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), names, templates)


@pytest.mark.parametrize("seed", range(5))
def test_top_k_accuracy__equals_open_clip_arithmetic_and_torchmetrics(seed: int) -> None:
    images, classes, labels = _random_case(seed)
    logits = 100.0 * images @ classes.T
    # The lines of open_clip 3.3's `accuracy`; the function itself stops at NumPy 2.4
    # (it converts an array of one element to a float).
    right = logits.topk(5, dim=1).indices.eq(labels[:, None])
    for k, ours in top_k_accuracy(class_ranks(images, classes, labels), 8).items():
        assert ours == pytest.approx(right[:, :k].sum().item() / len(labels))
        theirs = multiclass_accuracy(logits, labels, num_classes=8, average="micro", top_k=k)
        assert ours == pytest.approx(theirs.item())


def test_top_k_accuracy__omits_k_above_the_number_of_classes() -> None:
    assert top_k_accuracy(torch.tensor([0, 2]), num_classes=3) == {1: 0.5}


def test_mean_per_class_recall__equals_loop_and_ignores_absent_classes() -> None:
    images, classes, labels = _random_case(6)
    labels[labels == 3] = 2
    predicted = (images @ classes.T).argmax(dim=1).numpy()
    expected = [np.mean(predicted[labels.numpy() == one] == one) for one in range(8) if one != 3]
    assert mean_per_class_recall(class_ranks(images, classes, labels), labels) == pytest.approx(np.mean(expected))


@pytest.fixture
def captions() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    meaning, offset = generator.normal(size=(40, 16)), 4 * generator.normal(size=16)
    ko, en = meaning + generator.normal(size=(40, 16)), meaning + offset
    return tuple(one / np.linalg.norm(one, axis=1, keepdims=True) for one in (ko, en))


def _centred(rows: np.ndarray) -> np.ndarray:
    moved = rows - rows.mean(axis=0)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def test_matched_and_random__equal_the_whole_matrix(captions: tuple[np.ndarray, np.ndarray]) -> None:
    ko, en = captions
    matrix = ko @ en.T
    off = (matrix + matrix.T).sum(axis=1) / 2 - np.diag(matrix)
    matched, random = matched_and_random(torch.from_numpy(ko), torch.from_numpy(en))
    np.testing.assert_allclose(matched.numpy(), np.diag(matrix), rtol=1e-12)
    np.testing.assert_allclose(random.numpy(), off / (len(ko) - 1), rtol=1e-12)


def test_matched_minus_random__centres_each_language_first(captions: tuple[np.ndarray, np.ndarray]) -> None:
    ko, en = (_centred(one) for one in captions)
    matrix = ko @ en.T
    off = matrix[~np.eye(len(ko), dtype=bool)].mean()
    found = matched_minus_random(*(torch.from_numpy(one).float() for one in captions))
    assert found.mean().item() == pytest.approx(np.diag(matrix).mean() - off, abs=1e-6)
    assert found.dtype == torch.float64


def test_matched_minus_random__captions_without_shared_meaning_give_nothing() -> None:
    assert matched_minus_random(_features(500, 32, 0), _features(500, 32, 1)).mean().abs() < 4 / np.sqrt(500 * 32)
