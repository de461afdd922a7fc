"""Zero-shot classification against CLIP_benchmark, open_clip, scikit-learn, torchmetrics and NumPy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import zeroshot_classification
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from kelip_lightning.evaluation.ranks import recall_at
from kelip_lightning.evaluation.zero_shot import ZeroShotAccuracy, class_embeddings, mean_per_class
from tests.embeddings import random_rows, tied_rows, trained_rows

pytestmark = pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")


@pytest.fixture(autouse=True)
def _float_of_one_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP_benchmark 1.6's `accuracy` calls `float` with an array of one element, which NumPy 2.4 refuses."""
    patched = lambda value: value.item() if isinstance(value, np.ndarray) else float(value)  # noqa: E731
    monkeypatch.setattr(zeroshot_classification, "float", patched, raising=False)


@dataclass(frozen=True)
class Case:
    images: Tensor
    labels: Tensor
    classes: Tensor
    has_ties: bool = False


def _labels(num_images: int, num_classes: int) -> Tensor:
    return torch.randint(0, num_classes, (num_images,), generator=torch.Generator().manual_seed(num_classes))


def _random(num_images: int, num_classes: int) -> Case:
    return Case(random_rows(num_images, 8, 0), _labels(num_images, num_classes), random_rows(num_classes, 8, 1))


def _trained(num_images: int, num_classes: int) -> Case:
    labels, classes = _labels(num_images, num_classes), random_rows(num_classes, 16, 2)
    return Case(trained_rows(labels, classes, 3, noise=1.5), labels, classes)


def _tied(num_images: int, num_classes: int) -> Case:
    labels, width = _labels(num_images, num_classes), 6 if num_classes < 100 else 12
    return Case(tied_rows(num_images, width, 4), labels, tied_rows(num_classes, width, 5), has_ties=True)


def _missing_classes(num_images: int, num_classes: int) -> Case:
    case = _trained(num_images, num_classes)
    return Case(case.images, case.labels // 3 * 3, case.classes)


CASES = {
    "random": _random(203, 20),
    "trained": _trained(203, 20),
    "ties": _tied(203, 20),
    "missing classes": _missing_classes(203, 20),
    "missing classes, ties": _tied(9, 20),
    "three classes": _trained(50, 3),
    "three classes, ties": _tied(50, 3),
    "five classes": _tied(50, 5),
    "1,000 classes": _trained(301, 1000),
    "1,000 classes, ties": _tied(301, 1000),
    "collapsed": Case(tied_rows(1, 6, 0).repeat(60, 1), _labels(60, 12), tied_rows(1, 6, 0).repeat(12, 1), True),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class _Batches:
    """A data loader of CLIP_benchmark."""

    def __init__(self, case: Case, batch: int) -> None:
        self._case, self._batch = case, batch
        self.dataset = SimpleNamespace(classes=list(range(len(case.classes))))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self._case.images.split(self._batch), self._case.labels.split(self._batch), strict=True))


def _model(classes: Tensor | None = None) -> Any:
    return SimpleNamespace(encode_image=lambda images: images, encode_text=lambda numbers: classes[numbers])


def _computed(metric: ZeroShotAccuracy, case: Case, batch: int) -> dict[str, float]:
    for ids in torch.randperm(len(case.images), generator=torch.Generator().manual_seed(0)).split(batch):
        metric.update(case.images[ids], case.labels[ids], ids)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("batch", [16, 1000])
def test_topk_rule__equals_clip_benchmark(case: Case, batch: int) -> None:
    metric = ZeroShotAccuracy(case.classes, tie_rule="topk")
    found = _computed(metric, case, batch)
    loader = _Batches(case, batch)
    names, tokenize = list(map(str, range(len(case.classes)))), lambda texts: torch.tensor([int(one) for one in texts])
    theirs = zeroshot_classification.evaluate(_model(case.classes), loader, tokenize, names, ["{c}"], "cpu", amp=False)
    assert found["top1"] == pytest.approx(theirs["acc1"], abs=1e-6)
    assert found["mean_per_class_recall"] == pytest.approx(theirs["mean_per_class_recall"], abs=1e-6)
    if len(case.classes) < 5:
        assert "top5" not in found and math.isnan(theirs["acc5"])
    else:
        assert found["top5"] == pytest.approx(theirs["acc5"], abs=1e-6)
    logits, target = zeroshot_classification.run_classification(_model(), case.classes.T, loader, "cpu", amp=False)
    hits = logits.topk(min(5, len(case.classes)), dim=1).indices == target[:, None]
    assert metric.outcomes is not None and metric.top_matches is not None
    for column, k in enumerate(metric.ks):
        assert metric.outcomes.topk_hits[:, column].tolist() == hits[:, :k].any(dim=1).tolist()
        assert metric.outcomes.recall(k, "topk") == pytest.approx(
            zeroshot_classification.accuracy(logits, target, topk=metric.ks)[column]
        )
    assert metric.top_matches.match_ids[:, 0].tolist() == logits.argmax(dim=1).tolist()
    assert all(len(set(row)) == len(row) for row in metric.top_matches.match_ids.tolist())


def test_pessimistic_rule__equals_naive_loop_and_topk_where_nothing_ties(case: Case) -> None:
    metric = ZeroShotAccuracy(case.classes)
    found = _computed(metric, case, 17)
    scores, labels = (case.images @ case.classes.T).numpy(), case.labels.numpy()
    ranks = np.array([sum(score >= row[own] for score in row) - 1 for row, own in zip(scores, labels, strict=True)])
    assert metric.outcomes is not None
    assert metric.outcomes.ranks("pessimistic").tolist() == ranks.tolist()
    for k in metric.ks:
        assert found[f"top{k}"] == pytest.approx(np.mean(ranks < k), abs=1e-9)
    recalls = [np.mean(ranks[labels == one] == 0) for one in range(len(case.classes)) if (labels == one).any()]
    assert found["mean_per_class_recall"] == pytest.approx(np.mean(recalls), abs=1e-9)
    by_topk = _computed(ZeroShotAccuracy(case.classes, tie_rule="topk"), case, 17)
    assert by_topk == found if not case.has_ties else all(by_topk[name] >= value for name, value in found.items())
    assert metric.mean_per_class_recall("topk") == by_topk["mean_per_class_recall"]


def test_collapsed_model__zero_by_the_pessimistic_rule() -> None:
    case = CASES["collapsed"]
    assert set(_computed(ZeroShotAccuracy(case.classes), case, 60).values()) == {0.0}
    assert _computed(ZeroShotAccuracy(case.classes, tie_rule="topk"), case, 60)["mean_per_class_recall"] == 1 / 12


@pytest.mark.parametrize("seed", range(3))
def test_accuracies__equal_torchmetrics_and_scikit_learn(seed: int) -> None:
    images, classes = random_rows(50, 6, seed), random_rows(8, 6, seed + 100)
    labels = torch.randint(0, 8, (50,), generator=torch.Generator().manual_seed(seed))
    labels[labels == 3] = 2
    metric = ZeroShotAccuracy(classes, ks=(1, 3, 8, 9))
    metric.update(images.bfloat16().float() * 5, labels)  # of any length
    values, scores = metric.compute(), images.bfloat16().float() @ classes.T
    assert set(values) == {"top1", "top3", "top8", "mean_per_class_recall"}
    for k in (1, 3, 8):
        theirs = multiclass_accuracy(scores, labels, num_classes=8, average="micro", top_k=k)
        assert values[f"top{k}"].item() == pytest.approx(theirs.item(), abs=1e-6)
    balanced = balanced_accuracy_score(labels.numpy(), scores.argmax(dim=1).numpy())
    assert values["mean_per_class_recall"].item() == pytest.approx(balanced, abs=1e-9)
    assert mean_per_class(scores.argmax(dim=1) == labels, labels) == pytest.approx(balanced, abs=1e-9)
    assert metric.outcomes is not None and recall_at(metric.outcomes.pessimistic_ranks, (3,))[3] == values["top3"]


def test_no_k__leaves_the_recall_per_class() -> None:
    metric = ZeroShotAccuracy(random_rows(3, 8, 0), ks=(5,))
    metric.update(random_rows(9, 8, 1), torch.arange(9) % 3)
    assert list(metric.compute()) == ["mean_per_class_recall"]


def test_top_matches__probabilities_over_all_classes() -> None:
    case = CASES["trained"]
    metric = ZeroShotAccuracy(case.classes, logit_scale=30.0)
    _computed(metric, case, 32)
    assert metric.top_matches is not None
    probabilities = (30.0 * case.images @ case.classes.T).softmax(dim=1)
    values, classes = probabilities.topk(5, dim=1)
    assert metric.top_matches.image_ids.tolist() == list(range(203))
    assert metric.top_matches.match_ids.tolist() == classes.tolist()
    torch.testing.assert_close(metric.top_matches.probabilities, values)


def test_update__refuses_what_does_not_fit() -> None:
    metric, images, labels = ZeroShotAccuracy(random_rows(4, 8, 0)), random_rows(3, 8, 1), torch.tensor([0, 1, 3])
    metric.update(images[:0], labels[:0])
    with pytest.raises(ValueError, match="zero-shot classification needs images"):
        metric.compute()
    for wrong in (labels + 1, labels - 1, labels[:2], labels[:, None], labels.float()):
        with pytest.raises(
            ValueError, match=r"^labels must be integers \(B,\) in \[0, 4\) for the 3 images, got torch"
        ):
            metric.update(images, wrong)
    for rows in (images[:, :7], images[0]):
        with pytest.raises(ValueError, match=r"images must be \(B, 8\) with B ids"):
            metric.update(rows, labels, torch.arange(3))
    with pytest.raises(ValueError, match=r"classifier must be \(C, E\) with C >= 1, got \(0, 8\)"):
        ZeroShotAccuracy(torch.empty(0, 8))
    with pytest.raises(ValueError, match="call compute first"):
        metric.mean_per_class_recall("topk")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite__are_counted(bad: float) -> None:
    images, classes = random_rows(9, 8, 0), random_rows(5, 8, 1)
    images[[1, 4, 6], 3] = bad
    with pytest.raises(ValueError, match="3 of 9 image embeddings are not finite"):
        ZeroShotAccuracy(classes).update(images, torch.zeros(9, dtype=torch.int64))
    classes[:2, 0] = bad
    with pytest.raises(ValueError, match="2 of 5 class embeddings are not finite"):
        ZeroShotAccuracy(classes)


TEMPLATES = ["a photo of a {}.", "{}의 그림", "it is {} here"]


def _encode(texts: list[str]) -> Tensor:
    return torch.stack([torch.randn(10, generator=torch.Generator().manual_seed(crc32(t.encode()))) for t in texts])


def test_class_embeddings__equal_clip_benchmark_and_open_clip_with_the_80_templates_of_imagenet() -> None:
    names, templates = open_clip.IMAGENET_CLASSNAMES[:40:4], open_clip.OPENAI_IMAGENET_TEMPLATES
    assert len(templates) == 80
    ours = class_embeddings(_encode, [[name] for name in names], [template("{}") for template in templates])
    seen: list[list[str]] = []  # texts stay texts: a "token" is the number of a list of them

    def tokenize(texts: list[str]) -> Tensor:
        seen.append(list(texts))
        return torch.tensor([len(seen) - 1])

    def encode_text(tokens: Tensor, normalize: bool = False) -> Tensor:
        rows = _encode(seen[int(tokens)])
        return F.normalize(rows, dim=-1) if normalize else rows

    model: Any = SimpleNamespace(encode_text=encode_text)
    patterns = [template("{c}") for template in templates]
    theirs = zeroshot_classification.zero_shot_classifier(model, tokenize, names, patterns, "cpu", amp=False)
    torch.testing.assert_close(ours, theirs.T, atol=1e-6, rtol=0)
    theirs = open_clip.build_zero_shot_classifier(model, tokenize, names, templates, num_classes_per_batch=None)
    torch.testing.assert_close(ours, theirs.T, atol=1e-6, rtol=0)
    as_clip_benchmark = class_embeddings(_encode, [[name] for name in names], patterns)
    torch.testing.assert_close(as_clip_benchmark, ours, atol=0, rtol=0)


def test_class_embeddings__equal_open_clip_with_a_model_of_its() -> None:
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
    ours = class_embeddings(_encode, [["dog", "개"], ["cat"]], TEMPLATES)
    prompts = [template.format(name) for name in ("dog", "개") for template in TEMPLATES]
    expected = F.normalize(F.normalize(_encode(prompts), dim=-1).mean(dim=0), dim=-1)
    torch.testing.assert_close(ours[0], expected)


def test_class_embeddings__particles_agree_and_braces_in_a_name_are_kept() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return torch.ones(len(texts), 2)

    class_embeddings(encode, [["bowl {with} braces"], ["사과"], ["책"]], ["{}{을/를} 본다"])
    assert set(seen) == {"bowl {with} braces를 본다", "사과를 본다", "책을 본다"}


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([["a"]], [], "at least one template"),
        ([["a"]], ["no place"], "slots for the name"),
        ([["a"]], ["{} and {}"], "slots for the name"),
        ([["a"], []], ["{}"], "at least one name"),
    ],
)
def test_class_embeddings__refuses(names: list[list[str]], templates: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), names, templates)


def test_class_embeddings__counts_prompts_that_are_not_finite() -> None:
    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([[1.0, math.nan if "bad" in text else 1.0] for text in texts])

    with pytest.raises(ValueError, match="4 of 6 text embeddings are not finite"):
        class_embeddings(encode, [["bad one"], ["good"], ["bad"]], ["{}", "a {}"])
