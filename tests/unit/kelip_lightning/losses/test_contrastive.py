"""Contrastive losses and their multi-crop mean against NumPy, finite differences and open_clip, in any tiles."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from kelip_lightning.losses.contrastive import ContrastiveKind, ContrastiveLossConfig, contrastive_loss

Array = np.ndarray
INFO_NCE, SIGMOID = ContrastiveKind
B, E = 5, 4


def _unit(*shape: int, seed: int) -> Array:
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _numpy_info_nce(image: Array, text: Array, scale: float) -> float:
    cosines = image @ text.T
    by_image, by_text = _log_softmax(scale * cosines), _log_softmax(scale * cosines.T)
    return -float(np.diag(by_image).mean() + np.diag(by_text).mean()) / 2


def _numpy_gradients(image: Array, text: Array, scale: float) -> tuple[Array, Array, float]:
    """Of the loss by image, text and scale, from the softmax's derivative."""
    cosines = image @ text.T
    eye = np.eye(len(image))
    by_image = np.exp(_log_softmax(scale * cosines)) - eye
    by_text = np.exp(_log_softmax(scale * cosines.T)) - eye
    logits = (by_image + by_text.T) / (2 * len(image))
    return scale * logits @ text, scale * logits.T @ image, float((logits * cosines).sum())


def _numpy_multi_crop(crops: Array, local: Array, text: Array, scale: float, weight: float) -> float:
    terms = [_numpy_info_nce(crop, text, scale) for crop in crops]
    local_terms = [_numpy_info_nce(crop, text, scale) for crop in local]
    return (sum(terms) + weight * sum(local_terms)) / (len(terms) + weight * len(local_terms))


def _numeric_gradient(function: Callable[[Array], float], point: Array, step: float = 1e-6) -> Array:
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        ahead, behind = point.copy(), point.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


def _leaf(values: Array) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def _one_view(image: Tensor, text: Tensor, *factors: Tensor, max_logits: int | None = None) -> Tensor:
    kind = INFO_NCE if len(factors) == 1 else SIGMOID
    return contrastive_loss(
        image[None], image[None][:0], text, *factors, kind=kind, max_logits_per_pair=max_logits
    ).total


def _assert_same_gradients(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("max_logits", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_info_nce__value_and_gradients_equal_numpy(scale: float, max_logits: int | None) -> None:
    image, text = _unit(B, E, seed=0), _unit(B, E, seed=1)
    leaves = [_leaf(image), _leaf(text), _leaf(np.array([scale]))]
    loss = _one_view(*leaves, max_logits=max_logits)
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(_numpy_info_nce(image, text, scale), rel=1e-12)
    for found, expected in zip(leaves, _numpy_gradients(image, text, scale), strict=True):
        np.testing.assert_allclose(found.grad, np.reshape(expected, found.shape), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("max_logits", [None, 3])
def test_info_nce__equals_open_clip_in_value_and_gradient(max_logits: int | None) -> None:
    ours, theirs = ([_leaf(_unit(8, 6, seed=2)), _leaf(_unit(8, 6, seed=3)), _leaf(np.array([20.0]))] for _ in "ab")
    loss, reference = _one_view(*ours, max_logits=max_logits), ClipLoss()(*theirs)
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=0)
    loss.backward()
    reference.backward()
    _assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("max_logits", [None, 3])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 0.5)])
def test_sigmoid__equals_open_clip_in_value_and_gradient(scale: float, bias: float, max_logits: int | None) -> None:
    factors = np.array([scale]), np.array([bias])
    ours, theirs = ([_leaf(_unit(8, 6, seed=2)), _leaf(_unit(8, 6, seed=3)), *map(_leaf, factors)] for _ in "ab")
    loss, reference = _one_view(*ours, max_logits=max_logits), SigLipLoss()(*theirs)
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=0)
    loss.backward()
    reference.backward()
    _assert_same_gradients(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "bias", "message"),
    [
        (SIGMOID, None, "the sigmoid loss needs a logit_bias, and the model has none"),
        (INFO_NCE, torch.tensor([-10.0]), "info_nce has no logit_bias, and the model has one"),
    ],
)
def test_kind__a_bias_that_does_not_belong_to_it_is_refused(
    kind: ContrastiveKind, bias: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.eye(2)[None], torch.eye(2)[None][:0], torch.eye(2), torch.ones(1), bias, kind=kind)


def test_sigmoid__two_pairs_by_hand() -> None:
    """Own logits 2 - 1 = 1, others 0 - 1 = -1: four terms of log(1 + exp(-1)) over two pairs."""
    loss = _one_view(torch.eye(2), torch.eye(2), torch.tensor([2.0]), torch.tensor([-1.0]))
    assert loss.item() == pytest.approx(2 * np.log1p(np.exp(-1.0)), rel=1e-6)


def test_correct__where_the_own_caption_is_best() -> None:
    text = torch.eye(4)
    crops, scale = text[None, [0, 2, 2, 3]], torch.tensor([10.0])
    loss = contrastive_loss(crops, text[None][:0], text, scale, kind=INFO_NCE, max_logits_per_pair=1)
    assert loss.correct_B.tolist() == [True, False, True, True]


def test_info_nce__one_pair_has_no_loss() -> None:
    assert _one_view(torch.eye(1), torch.eye(1), torch.tensor([14.0])).item() == 0


@pytest.mark.parametrize("max_logits", [None, 2])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("bias", [None, -2.0])
def test_mean_over_ranks_is_the_loss_of_the_whole_batch(rank: int, max_logits: int | None, bias: float | None) -> None:
    image, text, scale = torch.tensor(_unit(6, E, seed=4)), torch.tensor(_unit(6, E, seed=5)), torch.tensor([9.0])
    own = slice(2 * rank, 2 * rank + 2)

    def gather(rows: Tensor) -> Tensor:
        return image.unsqueeze(1) if rows.ndim == 3 else text

    logit_bias = None if bias is None else torch.tensor([bias])
    loss = contrastive_loss(
        image[None, own],
        image[None, own][:0],
        text[own],
        scale,
        logit_bias,
        kind=INFO_NCE if bias is None else SIGMOID,
        gather=gather,
        rank=rank,
        max_logits_per_pair=max_logits,
    )
    cosines = (image @ text.T).numpy()
    if bias is None:
        parts = [np.diag(_log_softmax(9 * logits))[own] for logits in (cosines, cosines.T)]
        expected = -np.mean(parts)
    else:
        signs = 2 * np.eye(6) - 1
        expected = np.log1p(np.exp(-signs * (9 * cosines + bias)))[own].sum() / 2
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert loss.correct_B.tolist() == (cosines.argmax(axis=1) == np.arange(6))[own].tolist()


@pytest.mark.parametrize("max_logits", [None, 2])
@pytest.mark.parametrize(("num_local", "weight"), [(0, 1.0), (3, 1.0), (3, 0.25), (1, 0.0)])
def test_multi_crop__value_and_gradients_equal_numpy(num_local: int, weight: float, max_logits: int | None) -> None:
    crops, local, text = _unit(2, B, E, seed=6), _unit(num_local, B, E, seed=7), _unit(B, E, seed=8)
    scale = np.array([6.0])
    leaves = [_leaf(values) for values in (crops, local, text, scale)]
    loss = contrastive_loss(*leaves, kind=INFO_NCE, local_weight=weight, max_logits_per_pair=max_logits)
    (3 * loss.total).backward()
    assert loss.total.item() == pytest.approx(_numpy_multi_crop(crops, local, text, 6.0, weight), rel=1e-12)
    points = [crops, local, text, scale]
    for number, leaf in enumerate(leaves):

        def value(moved: Array, number: int = number) -> float:
            at = [*points[:number], moved, *points[number + 1 :]]
            return 3 * _numpy_multi_crop(at[0], at[1], at[2], float(at[3][0]), weight)

        expected = _numeric_gradient(value, points[number])
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-6, atol=1e-9)


def test_multi_crop__parts_for_the_log() -> None:
    crops, local, text = (torch.tensor(_unit(*shape, seed=9)) for shape in ((2, B, E), (3, B, E), (B, E)))
    scale = torch.tensor([5.0], dtype=torch.float64)
    loss = contrastive_loss(crops, local, text, scale, kind=INFO_NCE, local_weight=0.5)
    means = [np.mean([_numpy_info_nce(c.numpy(), text.numpy(), 5.0) for c in views]) for views in (crops, local)]
    assert loss.local_crops is not None
    assert loss.global_crops.item() == pytest.approx(means[0])
    assert loss.local_crops.item() == pytest.approx(means[1])
    assert torch.equal(loss.correct_B, (crops[0] @ text.T).argmax(dim=1) == torch.arange(B))
    assert not loss.global_crops.requires_grad
    assert contrastive_loss(crops, local[:0], text, scale, kind=INFO_NCE).local_crops is None


def test_backward__a_second_one_is_refused() -> None:
    image = torch.eye(2).requires_grad_()
    loss = _one_view(image, torch.eye(2), torch.tensor([2.0]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="no second backward pass"):
        loss.backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_weight": -1.0}, r"local_weight = -1\.0 must be at least 0"),
        ({"max_logits_per_pair": 0}, "max_logits_per_pair = 0 must be"),
    ],
)
def test_contrastive_loss_config__bad_values(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveLossConfig(**options)
