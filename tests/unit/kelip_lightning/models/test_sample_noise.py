"""Per-sample noise against a second implementation in NumPy, and its statistics."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kelip_lightning.models.sample_noise import drop_path, dropout, uniform, view_seeds

SEEDS = torch.tensor([0, 1, 2, 2**31, 2**32, 2**63 - 1, 123456789012345])


def _mix(words: np.ndarray) -> np.ndarray:
    """In unsigned 32-bit arithmetic, which wraps by itself."""
    for _ in range(2):
        words = (words ^ (words >> np.uint32(16))) * np.uint32(0x45D9F3B)
    return words ^ (words >> np.uint32(16))


def _numpy_uniform(seeds: Tensor, stream: int, count: int) -> np.ndarray:
    golden = np.uint32(0x9E3779B9)
    values = seeds.numpy().astype(np.uint64)
    low, high = values.astype(np.uint32), (values >> np.uint64(32)).astype(np.uint32)
    with np.errstate(over="ignore"):
        keys = _mix(_mix(low + golden) + high + golden)
        keys = _mix(keys + np.uint32(stream + 1) * golden)[:, None]
        words = _mix(_mix(keys + np.arange(count, dtype=np.uint32) * golden) ^ keys)
    return (words >> np.uint32(8)).astype(np.float64) / 2**24


@pytest.mark.parametrize("stream", [0, 1, 77])
def test_uniform__equals_numpy(stream: int) -> None:
    found = uniform(SEEDS, stream, (3, 5))
    assert found.dtype == torch.float32
    assert found.shape == (7, 3, 5)
    np.testing.assert_array_equal(found.flatten(1).double().numpy(), _numpy_uniform(SEEDS, stream, 15))


def test_uniform__does_not_depend_on_the_place_in_the_batch() -> None:
    whole = uniform(SEEDS, 3, (10,))
    order = torch.tensor([4, 2, 6])
    assert torch.equal(uniform(SEEDS[order], 3, (10,)), whole[order])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    uniform(SEEDS, 3, (10,))
    assert torch.equal(torch.get_rng_state(), state), "torch's own stream is left alone"


def test_uniform__is_uniform_and_uncorrelated_over_neighbours() -> None:
    """10^6 numbers: the mean's standard error is 2.9e-4, a correlation's 1e-3; five of them are allowed."""
    numbers = uniform(torch.arange(1000), 0, (1000,)).double()
    others = {
        "next seed": numbers.roll(1, 0),
        "next index": numbers.roll(1, 1),
        "next stream": uniform(torch.arange(1000), 1, (1000,)).double(),
    }
    assert abs(numbers.mean().item() - 0.5) < 5 * 2.9e-4
    histogram = torch.histc(numbers, 100, 0, 1)
    assert ((histogram - 10_000) ** 2 / 10_000).sum().item() < 99 + 5 * (2 * 99) ** 0.5
    for name, other in others.items():
        pair = torch.stack([numbers.flatten(), other.flatten()])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 5e-3, name


def test_view_seeds__views_differ_and_are_numbered_over_all_crops() -> None:
    seeds = view_seeds(SEEDS, range(3))
    assert seeds.shape == (21,)
    assert len(set(seeds.tolist())) == 21
    assert ((seeds >= 0) & (seeds.double() < 2.0**63)).all()
    assert torch.equal(view_seeds(SEEDS, range(2, 3)), seeds[14:])


def test_dropout__zeroes_the_share_and_keeps_the_mean() -> None:
    values = torch.ones(1000, 40, dtype=torch.bfloat16)
    found = dropout(values, 0.25, torch.arange(1000), 1)
    assert found.dtype == torch.bfloat16
    assert set(found.float().unique().tolist()) == {0.0, torch.tensor(1 / 0.75, dtype=torch.bfloat16).item()}
    assert (found == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 40_000) ** 0.5)


def test_drop_path__drops_whole_samples() -> None:
    found = drop_path(torch.ones(1000, 3, 2), 0.5, torch.arange(1000), 2)
    kept = found[:, 0, 0] > 0
    assert torch.equal(found, 2.0 * kept.float().view(-1, 1, 1).expand_as(found))
    assert kept.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 1000**0.5)
