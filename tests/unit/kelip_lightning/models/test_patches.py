"""Patches against a loop, masks against sets, rows against torch's gather and scatter."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kelip_lightning.models.patches import keep_lowest, mask_of, patchify, put_rows, take_rows, unpatchify


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 8, 4), (6, 12, 3), (5, 5, 5), (4, 4, 1)])
def test_patchify__equals_a_loop(height: int, width: int, patch: int) -> None:
    images = torch.rand(2, 3, height, width)
    patches = patchify(images, patch)
    number = 0
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            cut = images[:, :, top : top + patch, left : left + patch]
            assert torch.equal(patches[:, number], cut.permute(0, 2, 3, 1).flatten(1))
            number += 1
    assert patches.shape == (2, number, patch * patch * 3)


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_unpatchify__is_the_inverse(patch: int) -> None:
    images = torch.rand(2, 3, 8, 8)
    patches = patchify(images, patch)
    assert torch.equal(unpatchify(patches, patch), images)
    assert torch.equal(patchify(unpatchify(patches, patch), patch), patches)


@given(n=st.integers(1, 200), ratio=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_keep_lowest__keeps_those_with_the_lowest_noise(n: int, ratio: float, seed: int) -> None:
    noise = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (3, 1)), axis=1).astype(np.float32)
    keep = keep_lowest(torch.from_numpy(noise), ratio).numpy()
    assert keep.shape[1] == max(1, math.floor(Fraction(n) * (1 - Fraction(ratio)) + Fraction(1, 10**9)))
    for kept, values in zip(keep, noise, strict=True):
        assert kept.tolist() == sorted(np.argsort(values)[: len(kept)].tolist())


@pytest.mark.parametrize(("n", "ratio", "kept"), [(16, 0.75, 4), (49, 0.75, 12), (196, 0.75, 49), (100, 0.29, 71)])
def test_keep_lowest__number(n: int, ratio: float, kept: int) -> None:
    assert keep_lowest(torch.rand(1, n), ratio).shape == (1, kept)


def test_mask_of__one_where_hidden() -> None:
    keep = torch.tensor([[0, 3], [1, 2]])
    mask = mask_of(keep, 5)
    assert mask.dtype == torch.float32
    assert mask.tolist() == [[0, 1, 1, 0, 1], [1, 0, 0, 1, 1]]


def _index(batch: int = 3, num_some: int = 4, num_rows: int = 7) -> Tensor:
    return torch.stack([torch.randperm(num_rows)[:num_some] for _ in range(batch)])


def _wide(index: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_take_rows__value_and_gradient_are_those_of_gather(dtype: torch.dtype) -> None:
    index, upstream = _index(), torch.randn(3, 4, 5, dtype=dtype)
    rows = torch.randn(3, 7, 5, dtype=dtype, requires_grad=True)
    assert torch.equal(take_rows(rows, index), rows.gather(1, _wide(index)))
    (found,) = torch.autograd.grad(take_rows(rows, index), rows, upstream)
    (expected,) = torch.autograd.grad(rows.gather(1, _wide(index)), rows, upstream)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_put_rows__value_and_gradient_are_those_of_scatter(dtype: torch.dtype) -> None:
    index, upstream = _index(), torch.randn(3, 7, 5, dtype=dtype)
    rows = torch.randn(3, 4, 5, dtype=dtype, requires_grad=True)
    scattered = torch.zeros(3, 7, 5, dtype=dtype).scatter(1, _wide(index), rows)
    assert torch.equal(put_rows(rows, index, 7), scattered)
    (found,) = torch.autograd.grad(put_rows(rows, index, 7), rows, upstream)
    (expected,) = torch.autograd.grad(scattered, rows, upstream)
    assert torch.equal(found, expected)


def test_rows__of_non_finite_neighbours_stay_apart() -> None:
    """What is not looked up must not leak in by a product with zero."""
    rows = torch.tensor([[[torch.nan], [1.0]]])
    assert torch.equal(put_rows(rows, torch.tensor([[0, 2]]), 3)[0, 1:, 0], torch.tensor([0.0, 1.0]))
    assert torch.equal(take_rows(rows, torch.tensor([[1]])), torch.ones(1, 1, 1))
