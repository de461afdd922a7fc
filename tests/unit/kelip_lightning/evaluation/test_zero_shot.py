"""Zero-shot classification against open_clip, the field's reference, and torchmetrics."""

from collections.abc import Callable

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from kelip_lightning.evaluation.zero_shot import accuracy, class_embeddings, mean_per_class_recall

TEMPLATES = ["a photo of a {}.", "{}의 그림", "it is {} here"]
NAMES = ["red apple", "사과", "dog", "고양이", "bowl {with} braces", "x"]


class _HashTextModel(nn.Module):
    """Texts as byte histograms through a fixed random layer; open_clip's interface."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(256, 12)

    def encode_text(self, counts: Tensor, normalize: bool = False) -> Tensor:
        features = self.layer(counts).tanh()
        return F.normalize(features, dim=-1) if normalize else features


def _byte_counts(texts: list[str]) -> Tensor:
    return torch.stack([torch.bincount(torch.tensor(list(text.encode())), minlength=256) for text in texts]).float()


def _encode_with(model: _HashTextModel) -> Callable[[list[str]], Tensor]:
    return lambda texts: model.encode_text(_byte_counts(texts))


def _random_case(seed: int, num_images: int = 50, num_classes: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = F.normalize(torch.randn(num_images, 6, generator=generator), dim=-1)
    classes = F.normalize(torch.randn(num_classes, 6, generator=generator), dim=-1)
    return images, classes, torch.randint(0, num_classes, (num_images,), generator=generator)


def test_class_embeddings__equals_open_clip_on_stub_model() -> None:
    model = _HashTextModel()
    theirs = open_clip.build_zero_shot_classifier(model, _byte_counts, NAMES[:4] + NAMES[5:], TEMPLATES)
    ours = class_embeddings(_encode_with(model), [[name] for name in NAMES[:4] + NAMES[5:]], TEMPLATES)
    torch.testing.assert_close(ours, theirs.T, atol=1e-6, rtol=1e-5)


def test_class_embeddings__equals_open_clip_on_its_tiny_model() -> None:
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
    model = _HashTextModel()
    encode = _encode_with(model)
    ours = class_embeddings(encode, [["dog", "개"], ["cat"]], TEMPLATES)
    prompts = [template.format(name) for name in ("dog", "개") for template in TEMPLATES]
    expected = F.normalize(F.normalize(encode(prompts), dim=-1).mean(dim=0), dim=-1)
    torch.testing.assert_close(ours[0], expected)


def test_class_embeddings__braces_in_a_name_are_kept() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return torch.ones(len(texts), 2)

    class_embeddings(encode, [["bowl {with} braces"]], ["a {}"])
    assert seen == ["a bowl {with} braces"]


@pytest.mark.parametrize("templates", [[], ["no place"], ["{} and {}"]])
def test_class_embeddings__rejects_templates(templates: list[str]) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), [["a"]], templates)


def test_class_embeddings__rejects_a_class_without_name() -> None:
    with pytest.raises(ValueError, match="at least one name"):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), [["a"], []], ["{}"])


@pytest.mark.parametrize("seed", range(5))
def test_accuracy__equals_open_clip_arithmetic_and_torchmetrics(seed: int) -> None:
    images, classes, labels = _random_case(seed)
    logits = 100.0 * images @ classes.T
    # The lines of open_clip 3.3's `accuracy`; the function itself stops at NumPy 2.4
    # (it converts an array of one element to a float).
    right = logits.topk(5, dim=1).indices.eq(labels[:, None])
    for k, ours in accuracy(images, classes, labels).items():
        assert ours == pytest.approx(right[:, :k].sum().item() / len(labels))
        theirs = multiclass_accuracy(logits, labels, num_classes=8, average="micro", top_k=k)
        assert ours == pytest.approx(theirs.item())


def test_accuracy__leaves_out_k_above_the_number_of_classes() -> None:
    images, classes, labels = _random_case(0, num_classes=3)
    assert list(accuracy(images, classes, labels)) == [1]


def test_mean_per_class_recall__equals_loop_and_ignores_absent_classes() -> None:
    images, classes, labels = _random_case(6)
    labels[labels == 3] = 2
    predicted = (images @ classes.T).argmax(dim=1).numpy()
    expected = [np.mean(predicted[labels.numpy() == one] == one) for one in range(8) if one != 3]
    assert mean_per_class_recall(images, classes, labels) == pytest.approx(np.mean(expected))
