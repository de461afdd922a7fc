"""Resampled positions against timm, against torch's interpolation, and against the formula written in NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.models.positions import Grid, resample_positions

GRIDS: list[tuple[Grid, Grid]] = [((7, 7), (3, 3)), ((4, 4), (6, 6)), ((16, 16), (37, 37)), ((14, 14), (6, 9))]
Resample = Callable[[Tensor], Tensor]


def _positions(stored: Grid, prefix: int, width: int = 5) -> Tensor:
    return 0.2 * torch.randn(1, prefix + stored[0] * stored[1], width)


def _official(stored: Grid, wanted: Grid) -> Resample:
    """As the official code does, with torch's interpolation."""

    def resample(positions: Tensor) -> Tensor:
        grid = positions[:, 1:].reshape(1, *stored, -1).permute(0, 3, 1, 2)
        factors = tuple((new + 0.1) / old for new, old in zip(wanted, stored, strict=True))
        resampled = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)

    return resample


def _assert_alike(ours: Resample, theirs: Resample, positions: Tensor) -> None:
    """Values, and the gradient of a sum with weights from -0.2 to 0.2; both are of the size of what is resampled."""
    found, gradients = [], []
    for function in (ours, theirs):
        leaf = positions.clone().requires_grad_()
        resampled = function(leaf)
        (resampled * 0.2 * torch.arange(resampled.numel()).view_as(resampled).sin()).sum().backward()
        assert leaf.grad is not None
        found.append(resampled.detach())
        gradients.append(leaf.grad)
    for one, other in (found, gradients):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("stored", "wanted"), GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_resample_positions__value_and_gradient_equal_timms(stored: Grid, wanted: Grid, prefix: int) -> None:
    _assert_alike(
        lambda positions: resample_positions(positions, stored, wanted, num_prefix_tokens=prefix),
        lambda positions: resample_abs_pos_embed(positions, list(wanted), list(stored), num_prefix_tokens=prefix),
        _positions(stored, prefix),
    )


@pytest.mark.parametrize(("stored", "wanted"), GRIDS)
def test_resample_positions__value_and_gradient_equal_the_official_ones(stored: Grid, wanted: Grid) -> None:
    ours: Resample = lambda positions: resample_positions(positions, stored, wanted, official=True)  # noqa: E731
    _assert_alike(ours, _official(stored, wanted), _positions(stored, 1))


def _cubic(distance: float) -> float:
    """The bicubic kernel with a = -0.75, which torch uses without antialiasing."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _official_matrix(stored: int, wanted: int) -> NDArray[np.float64]:
    """(wanted, stored): each sample from its four neighbours, borders repeated; the scale has the official 0.1."""
    matrix = np.zeros((wanted, stored))
    for place in range(wanted):
        centre = (place + 0.5) * stored / (wanted + 0.1) - 0.5
        first = int(np.floor(centre))
        for neighbour in range(first - 1, first + 3):
            matrix[place, min(max(neighbour, 0), stored - 1)] += _cubic(centre - neighbour)
    return matrix


@pytest.mark.parametrize("wanted", [(6, 6), (3, 3), (2, 5)])
def test_resample_positions__official_equals_the_formula(wanted: Grid) -> None:
    positions = _positions((4, 4), 1)
    grid = positions[0, 1:].double().numpy().reshape(4, 4, 5)
    rows, columns = (_official_matrix(4, side) for side in wanted)
    expected = np.einsum("ri,cj,ijd->rcd", rows, columns, grid).reshape(-1, 5)
    resampled = resample_positions(positions, (4, 4), wanted, official=True)
    assert torch.equal(resampled[:, 0], positions[:, 0])
    np.testing.assert_allclose(resampled[0, 1:].numpy(), expected, atol=1e-6)


def test_resample_positions__same_grid_is_left_alone() -> None:
    positions = _positions((4, 4), 1)
    assert resample_positions(positions, (4, 4), (4, 4)) is positions


def test_resample_positions__computes_in_float32_whatever_the_weights_are() -> None:
    positions = _positions((7, 7), 1).bfloat16()
    expected = resample_abs_pos_embed(positions, [3, 3], [7, 7])
    found = resample_positions(positions, (7, 7), (3, 3))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=0)  # one unit in the last place of 8 bits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = resample_positions(positions.float(), (7, 7), (3, 3))
    torch.testing.assert_close(again, resample_positions(positions.float(), (7, 7), (3, 3)), rtol=0, atol=0)


def test_resample_positions__first_used_in_inference_mode_trains_afterwards() -> None:
    positions = _positions((5, 7), 1).requires_grad_()
    with torch.inference_mode():
        resample_positions(positions, (5, 7), (4, 2))
    resample_positions(positions, (5, 7), (4, 2)).sum().backward()
    assert positions.grad is not None


def test_resample_positions__compiles_to_one_graph_and_its_gradient() -> None:
    compiled = torch.compile(resample_positions, backend="aot_eager", fullgraph=True, dynamic=False)
    for wanted in ((3, 5), (9, 2)):
        _assert_alike(
            lambda positions, wanted=wanted: compiled(positions, (6, 6), wanted),  # type: ignore[misc]
            lambda positions, wanted=wanted: resample_positions(positions, (6, 6), wanted),  # type: ignore[misc]
            _positions((6, 6), 1),
        )
