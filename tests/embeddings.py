"""Unit rows for tests of ranks: random ones, pairs as a trained model gives them, and rows whose scores tie exactly."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_rows(count: int, width: int, seed: int) -> Tensor:
    """Uniform on the sphere, float32 (count, width)."""
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def trained_rows(owners: Tensor, rows: Tensor, seed: int, noise: float = 0.7) -> Tensor:
    """Each owner's row with noise, so that it mostly is the nearest one; float32 (len(owners), width)."""
    generator = torch.Generator().manual_seed(seed)
    width = rows.shape[1]
    return F.normalize(rows[owners] + noise / width**0.5 * torch.randn(len(owners), width, generator=generator), dim=-1)


def tied_rows(count: int, width: int, seed: int) -> Tensor:
    """Four entries of ±1/2 and zeros: products and sums are exact in float32, so equal cosines have equal bits."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, width, generator=generator).topk(4, dim=1).indices
    signs = torch.randint(0, 2, (count, 4), generator=generator) - 0.5
    return torch.zeros(count, width).scatter_(1, places, signs)
