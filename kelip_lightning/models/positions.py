"""Position embeddings of one grid of patches, resampled for another: a product with a constant matrix.

`F.interpolate` would do the same, but the backward pass of its bicubic mode has no deterministic form on CUDA.

Shapes: D width, L tokens, M patches of the stored grid, N patches of the wanted grid.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]
"""Rows and columns of patches."""


def resample_positions(
    positions_1LD: Tensor, stored: Grid, wanted: Grid, *, num_prefix_tokens: int = 1, official: bool = False
) -> Tensor:
    """Position embeddings for another grid of patches, those of the tokens in front unchanged.

    Args:
        positions_1LD: (1, num_prefix_tokens + M, D), patches in raster order.
        stored: Their grid.
        wanted: Grid of the picture at hand.
        num_prefix_tokens: How many positions stand in front of the patches'.
        official: Whether as the official KELIP code does it; else as timm does.

    Returns:
        (1, num_prefix_tokens + N, D) of the same type; computed in float32, whatever that is.
    """
    if wanted == stored:
        return positions_1LD
    matrix_NM: Tensor = _resampling_matrix(stored, wanted, official, positions_1LD.device)
    with torch.autocast(positions_1LD.device.type, enabled=False):
        resampled_1ND = matrix_NM @ positions_1LD[:, num_prefix_tokens:].float()
    resampled_1ND = resampled_1ND.to(positions_1LD.dtype)
    return torch.cat([positions_1LD[:, :num_prefix_tokens], resampled_1ND], dim=1)


# The compiler calls it once while it traces, and keeps the tensor as a constant of the graph: one call a graph.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _resampling_matrix(stored: Grid, wanted: Grid, official: bool, device: torch.device) -> Tensor:
    return _matrix_on(stored, wanted, official, device)


@cache
def _matrix_on(stored: Grid, wanted: Grid, official: bool, device: torch.device) -> Tensor:
    """float32 (N, M), once per process, pair of grids and device.

    No buffer of a module: those become bfloat16 with its weights.
    """
    # What is made in inference mode could not be used in training.
    with torch.inference_mode(False), torch.no_grad():
        return _matrix(stored, wanted, official).float().to(device)


def _matrix(stored: Grid, wanted: Grid, official: bool) -> Tensor:
    """float64 (N, M): what torch's bicubic interpolation makes of each grid with a single one in it.

    timm: with antialiasing. Official: without, and with scale factors (wanted + 0.1) / stored, a trick that came from
    DINO; the 0.1 shifts every sample a little, so that weights trained with it want it.

    Reference: timm, `resample_abs_pos_embed`; navervision/KELIP, `VisualTransformer.interpolate_pos_embedding`.
    Deviation: rows stay rows for pictures that are not square; the official code mixes the two up there.
    """
    num_patches = stored[0] * stored[1]
    units = torch.eye(num_patches, dtype=torch.float64, device="cpu").view(1, num_patches, *stored)
    if official:
        factors = tuple((new + 0.1) / old for new, old in zip(wanted, stored, strict=True))
        return F.interpolate(units, scale_factor=factors, mode="bicubic").flatten(2)[0].T
    return F.interpolate(units, size=wanted, mode="bicubic", antialias=True).flatten(2)[0].T
