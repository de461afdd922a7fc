"""The MAE loss against NumPy; visible patches do not count."""

import numpy as np
import torch

from kelip_lightning.losses.reconstruction import masked_mse, standardize_patches

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
