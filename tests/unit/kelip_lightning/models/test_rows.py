"""Rows taken and put, and their gradients, against torch's own gather and scatter."""

import pytest
import torch
from torch import Tensor

from kelip_lightning.models.rows import put_rows, take_rows


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
