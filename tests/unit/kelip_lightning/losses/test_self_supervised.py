"""MAE loss, NT-Xent and BYOL loss against direct computations, values and gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.self_supervised import (
    EPSILON,
    byol_loss,
    masked_mse,
    nt_xent,
    standardize_patches,
    target_momentum,
)

GENERATOR = np.random.default_rng(0)
PREDICTION, TARGET = GENERATOR.normal(size=(2, 3, 6, 12))
MASK = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=np.float64)


def test_standardize_patches__equals_numpy() -> None:
    patches = GENERATOR.normal(3, 5, size=(2, 4, 27))
    mean, variance = patches.mean(axis=-1, keepdims=True), patches.var(axis=-1, ddof=1, keepdims=True)
    expected = (patches - mean) / np.sqrt(variance + 1e-6)
    np.testing.assert_allclose(standardize_patches(torch.tensor(patches)), expected, rtol=1e-12)


def test_standardize_patches__even_patch_becomes_zero() -> None:
    assert standardize_patches(torch.full((1, 1, 12), 0.7)).abs().max() < 1e-3


def test_masked_mse__value_and_gradient_equal_numpy() -> None:
    prediction = torch.tensor(PREDICTION, requires_grad=True)
    loss = masked_mse(prediction, torch.tensor(TARGET), torch.tensor(MASK))
    masked = MASK.astype(bool)
    np.testing.assert_allclose(loss.item(), ((PREDICTION - TARGET)[masked] ** 2).mean(), rtol=1e-12)
    loss.backward()
    expected = 2 * (PREDICTION - TARGET) * MASK[..., None] / (MASK.sum() * 12)
    np.testing.assert_allclose(prediction.grad, expected, rtol=1e-12)


def test_masked_mse__visible_patches_change_nothing() -> None:
    prediction, target, mask = torch.tensor(PREDICTION), torch.tensor(TARGET), torch.tensor(MASK)
    changed = torch.where(mask.bool().unsqueeze(-1), prediction, torch.full_like(prediction, 1e6))
    assert torch.equal(masked_mse(changed, target, mask), masked_mse(prediction, target, mask))
    leaf = prediction.clone().requires_grad_()
    masked_mse(leaf, target, mask).backward()
    assert leaf.grad is not None
    assert (leaf.grad[~mask.bool()] == 0).all()
    assert (leaf.grad[mask.bool()] != 0).all()


def test_masked_mse__moves_with_a_masked_patch() -> None:
    prediction, target, mask = torch.tensor(PREDICTION), torch.tensor(TARGET), torch.tensor(MASK)
    changed = prediction.clone()
    changed[0, 0] += 1
    assert masked_mse(changed, target, mask) != masked_mse(prediction, target, mask)


def _views(batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(2, batch, 7, generator=generator, dtype=torch.float64), dim=-1)


def _nt_xent_reference(views_VBE: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each view against the 2 B - 1 others, in a loop."""
    features = torch.cat([views_VBE[0], views_VBE[1]])
    count = len(features)
    terms = []
    for index in range(count):
        others = [other for other in range(count) if other != index]
        logits = features[index] @ features[others].T / temperature
        partner = torch.tensor([others.index((index + count // 2) % count)])
        terms.append(F.cross_entropy(logits[None], partner))
    return torch.stack(terms).mean()


def _with_gradient(loss: Callable[[Tensor], Tensor], views: Tensor) -> tuple[Tensor, Tensor]:
    leaf = views.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize("max_logits_per_pair", [None, 1, 3])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent__value_and_gradient(max_logits_per_pair: int | None, temperature: float) -> None:
    found = _with_gradient(lambda views: nt_xent(views, temperature, max_logits_per_pair=max_logits_per_pair), _views())
    expected = _with_gradient(lambda views: _nt_xent_reference(views, temperature), _views())
    torch.testing.assert_close(found, expected)


def test_nt_xent__equal_views_give_the_loss_of_chance() -> None:
    views = F.normalize(torch.ones(2, 4, 3), dim=-1)
    assert nt_xent(views, 0.1).item() == pytest.approx(math.log(2 * 4 - 1))


def test_nt_xent__two_halves_of_a_batch_make_the_whole() -> None:
    whole = _views(6).requires_grad_()
    halves = []
    for rank in range(2):
        own = whole[:, 3 * rank : 3 * rank + 3]
        halves.append(nt_xent(own, 0.2, gather=lambda _: whole.transpose(0, 1), rank=rank))
    torch.stack(halves).mean().backward()
    value, gradient = _with_gradient(lambda views: _nt_xent_reference(views, 0.2), _views(6))
    torch.testing.assert_close(torch.stack(halves).mean().detach(), value)
    torch.testing.assert_close(whole.grad, gradient)


def _standardized(views: Tensor) -> Tensor:
    """Standardised feature by feature."""
    columns = [[(one - one.mean()) / (one.var(correction=0) + EPSILON).sqrt() for one in view.T] for view in views]
    return torch.stack([torch.stack(view, dim=1) for view in columns])


def _byol_reference(predictions: Tensor, targets: Tensor) -> Tensor:
    cosine = torch.nn.CosineSimilarity(dim=-1)
    first, second = _standardized(predictions), _standardized(targets)
    return (4 - 2 * cosine(first[0], second[1]) - 2 * cosine(first[1], second[0])).mean()


def test_byol_loss__value_and_gradient() -> None:
    targets = _views().flip(1).requires_grad_()
    found = _with_gradient(lambda predictions: byol_loss(predictions, targets), _views())
    expected = _with_gradient(lambda predictions: _byol_reference(predictions, targets.detach()), _views())
    torch.testing.assert_close(found, expected)
    assert targets.grad is None


def test_byol_loss__two_halves_of_a_batch_make_the_whole() -> None:
    whole, targets = _views(6).requires_grad_(), _views(6).flip(1)
    halves = []
    for rows in (slice(0, 3), slice(3, 6)):
        gathered = iter((whole.transpose(0, 1), targets.transpose(0, 1)))
        halves.append(byol_loss(whole[:, rows], targets[:, rows], gather=lambda _, ranks=gathered: next(ranks)))
    torch.stack(halves).mean().backward()
    value, gradient = _with_gradient(lambda views: _byol_reference(views, targets), _views(6))
    torch.testing.assert_close(torch.stack(halves).mean().detach(), value)
    torch.testing.assert_close(whole.grad, gradient)


def test_byol_loss__equal_features_of_all_images_do_not_minimise_it() -> None:
    alike = torch.ones(2, 64, 8) + 1e-6 * torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(1))
    assert byol_loss(alike, alike).item() == pytest.approx(4, abs=0.5)
    assert byol_loss(_views(), _views().flip(0)).item() == pytest.approx(0, abs=1e-3)


def test_target_momentum__from_its_start_along_a_cosine_to_one() -> None:
    found = [target_momentum(step, 100, 0.996) for step in range(101)]
    steps = np.arange(101)
    np.testing.assert_allclose(found, 1 - 0.004 * (np.cos(np.pi * steps / 100) + 1) / 2, rtol=1e-12)
    assert (found[0], found[100]) == (0.996, 1.0)
