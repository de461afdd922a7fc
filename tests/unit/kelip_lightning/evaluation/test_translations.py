"""Similarity of translations against whole matrices in NumPy."""

import math

import numpy as np
import pytest
import torch

from kelip_lightning.evaluation.translations import centre, matched_and_random, matched_minus_random
from tests.embeddings import random_rows


@pytest.fixture
def captions() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    meaning, offset = generator.normal(size=(40, 16)), 4 * generator.normal(size=16)
    ko, en = meaning + generator.normal(size=(40, 16)), meaning + offset
    return tuple(one / np.linalg.norm(one, axis=1, keepdims=True) for one in (ko, en))


def _centred(rows: np.ndarray) -> np.ndarray:
    moved = rows - rows.mean(axis=0)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def test_centre__subtracts_the_mean_row(captions: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(centre(torch.from_numpy(captions[1])).numpy(), _centred(captions[1]), rtol=1e-12)


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
    assert matched_minus_random(random_rows(500, 32, 0), random_rows(500, 32, 1)).mean().abs() < 4 / np.sqrt(500 * 32)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite__are_counted(bad: float) -> None:
    rows = random_rows(40, 16, 0)
    rows[[3, 9, 11], 2] = bad
    with pytest.raises(ValueError, match="3 of 40 caption embeddings are not finite"):
        centre(rows)
    with pytest.raises(ValueError, match="3 of 40 en caption embeddings are not finite"):
        matched_and_random(random_rows(40, 16, 1), rows)
