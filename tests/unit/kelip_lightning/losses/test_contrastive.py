"""InfoNCE and its multi-crop mean against NumPy, finite differences and open_clip."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from kelip_lightning.losses.contrastive import ContrastiveLossConfig, info_nce, multi_crop_info_nce

Array = np.ndarray
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


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_info_nce__value_and_gradients_equal_numpy(scale: float) -> None:
    image, text = _unit(B, E, seed=0), _unit(B, E, seed=1)
    image_BE, text_BE, logit_scale = _leaf(image), _leaf(text), _leaf(np.array([scale]))
    loss, _ = info_nce(image_BE, text_BE, logit_scale)
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(_numpy_info_nce(image, text, scale), rel=1e-12)
    for found, expected in zip((image_BE, text_BE, logit_scale), _numpy_gradients(image, text, scale), strict=True):
        np.testing.assert_allclose(found.grad, np.reshape(expected, found.shape), rtol=1e-10, atol=1e-14)


def test_info_nce__equals_open_clip_in_value_and_gradient() -> None:
    pairs = [[_leaf(_unit(8, 6, seed=2)), _leaf(_unit(8, 6, seed=3)), _leaf(np.array([20.0]))] for _ in range(2)]
    loss, _ = info_nce(*pairs[0])
    reference = ClipLoss()(*pairs[1])
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=0)
    loss.backward()
    reference.backward()
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_info_nce__correct_where_the_own_caption_is_best() -> None:
    text = torch.eye(4)
    _, correct_B = info_nce(text[[0, 2, 2, 3]], text, torch.tensor([10.0]))
    assert correct_B.tolist() == [True, False, True, True]


def test_info_nce__one_pair_has_no_loss() -> None:
    loss, correct_B = info_nce(torch.eye(1), torch.eye(1), torch.tensor([14.0]))
    assert loss.item() == 0
    assert correct_B.tolist() == [True]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_info_nce__mean_over_ranks_is_the_loss_of_the_whole_batch(rank: int) -> None:
    image, text, scale = torch.tensor(_unit(6, E, seed=4)), torch.tensor(_unit(6, E, seed=5)), torch.tensor([9.0])
    own = slice(2 * rank, 2 * rank + 2)

    def gather(rows: Tensor) -> Tensor:
        return image if torch.equal(rows, image[own]) else text

    loss, correct_B = info_nce(image[own], text[own], scale, gather, rank)
    cosines = (image @ text.T).numpy() * 9
    parts = [np.diag(_log_softmax(logits))[own] for logits in (cosines, cosines.T)]
    assert loss.item() == pytest.approx(-np.mean(parts), rel=1e-12)
    assert correct_B.tolist() == (cosines.argmax(axis=1) == np.arange(6))[own].tolist()


@pytest.mark.parametrize(("num_local", "weight"), [(0, 1.0), (3, 1.0), (3, 0.25), (1, 0.0)])
def test_multi_crop_info_nce__value_and_gradients_equal_numpy(num_local: int, weight: float) -> None:
    crops, local, text = _unit(2, B, E, seed=6), _unit(num_local, B, E, seed=7), _unit(B, E, seed=8)
    scale = np.array([6.0])
    leaves = [_leaf(values) for values in (crops, local, text, scale)]
    loss = multi_crop_info_nce(*leaves, local_weight=weight)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(_numpy_multi_crop(crops, local, text, 6.0, weight), rel=1e-12)
    points = [crops, local, text, scale]
    for number, leaf in enumerate(leaves):

        def value(moved: Array, number: int = number) -> float:
            at = [*points[:number], moved, *points[number + 1 :]]
            return _numpy_multi_crop(at[0], at[1], at[2], float(at[3][0]), weight)

        expected = _numeric_gradient(value, points[number])
        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_multi_crop_info_nce__parts_for_the_log() -> None:
    crops, local, text = (torch.tensor(_unit(*shape, seed=9)) for shape in ((2, B, E), (3, B, E), (B, E)))
    scale = torch.tensor([5.0], dtype=torch.float64)
    loss = multi_crop_info_nce(crops, local, text, scale, local_weight=0.5)
    means = [np.mean([_numpy_info_nce(c.numpy(), text.numpy(), 5.0) for c in views]) for views in (crops, local)]
    assert loss.global_crops.item() == pytest.approx(means[0])
    assert loss.local_crops.item() == pytest.approx(means[1])
    assert torch.equal(loss.correct_B, (crops[0] @ text.T).argmax(dim=1) == torch.arange(B))
    assert not loss.global_crops.requires_grad


def test_multi_crop_info_nce__one_view_is_info_nce() -> None:
    crop, text, scale = torch.tensor(_unit(B, E, seed=10)), torch.tensor(_unit(B, E, seed=11)), torch.tensor([3.0])
    loss = multi_crop_info_nce(crop[None], crop.new_empty(0, B, E), text, scale)
    assert torch.equal(loss.total, info_nce(crop, text, scale)[0])
    assert loss.local_crops is None


def test_contrastive_loss_config__bad_weight() -> None:
    with pytest.raises(ValueError, match=r"local_weight = -1\.0 must not be negative"):
        ContrastiveLossConfig(local_weight=-1.0)
