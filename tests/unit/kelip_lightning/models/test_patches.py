"""Patches against a loop, masks against sets."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kelip_lightning.models.patches import keep_lowest, mask_of, patchify, unpatchify


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


@given(n=st.integers(2, 60), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_mask_of__complements_keep_lowest(n: int, seed: int) -> None:
    noise = torch.rand(4, n, generator=torch.Generator().manual_seed(seed))
    keep = keep_lowest(noise, 0.75)
    mask = mask_of(keep, n)
    assert (mask.sum(dim=1) == n - keep.shape[1]).all()
    assert (mask.gather(1, keep) == 0).all()
