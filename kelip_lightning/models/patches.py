"""Patches of images, random masks over them, and row selection with gradients that are deterministic on CUDA.

Shapes: B batch, N = (H / p) * (W / p) patches in raster order, P = p * p * 3 values of a patch, K kept, D width.
"""

from typing import Any

import torch
from torch import Tensor

from kelip_lightning.models.config import num_kept


def patchify(images_BCHW: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, (B, N, P); the pixels of a patch are in raster order, channels last."""
    b, c, h, w = images_BCHW.shape
    rows, columns = h // patch_size, w // patch_size
    cut = images_BCHW.reshape(b, c, rows, patch_size, columns, patch_size)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, rows * columns, patch_size * patch_size * c)


def unpatchify(patches_BNP: Tensor, patch_size: int) -> Tensor:
    """The inverse of `patchify` for square images, (B, 3, H, W)."""
    b, n, p = patches_BNP.shape
    side, c = round(n**0.5), p // patch_size**2
    grid = patches_BNP.reshape(b, side, side, patch_size, patch_size, c)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, c, side * patch_size, side * patch_size)


def keep_lowest(noise_BN: Tensor, mask_ratio: float) -> Tensor:
    """Indices of the visible patches, those with the lowest noise (ties: the first), int64 (B, K), ascending."""
    kept = num_kept(noise_BN.shape[1], mask_ratio)
    return noise_BN.argsort(dim=1, stable=True)[:, :kept].sort(dim=1).values


def mask_of(keep_BK: Tensor, num_patches: int) -> Tensor:
    """float32 (B, N): 0 where a patch is kept, 1 where it is masked."""
    mask = torch.ones(keep_BK.shape[0], num_patches, dtype=torch.float32, device=keep_BK.device)
    return mask.scatter(1, keep_BK, 0.0)


def take_rows(rows_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Row index[b, k] of each b, (B, K, D); indices are int64 and unique within a sample.

    torch's gradient of `gather` is `scatter_add`, since indices may repeat. Unique indices make `take_rows` and
    `put_rows` each other's transpose, and both are look-ups.
    """
    taken: Tensor = _TakeRows.apply(rows_BND, index_BK)
    return taken


def put_rows(rows_BKD: Tensor, index_BK: Tensor, num_rows: int) -> Tensor:
    """Row k of each b at index[b, k] of `num_rows`, zeros elsewhere, (B, N, D); the transpose of `take_rows`."""
    put: Tensor = _PutRows.apply(rows_BKD, index_BK, num_rows)
    return put


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BND: Tensor, index_BK: Tensor) -> Tensor:
        ctx.save_for_backward(index_BK)
        ctx.num_rows = rows_BND.shape[1]
        return _gather(rows_BND, index_BK)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (index_BK,) = ctx.saved_tensors
        return _spread(upstream[0], index_BK, ctx.num_rows), None


class _PutRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BKD: Tensor, index_BK: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(index_BK)
        return _spread(rows_BKD, index_BK, num_rows)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        return _gather(upstream[0], *ctx.saved_tensors), None, None


def _gather(rows_BND: Tensor, index_BK: Tensor) -> Tensor:
    batch, num_rows, width = rows_BND.shape
    if rows_BND.is_contiguous():  # copies whole rows
        starts_B1 = torch.arange(0, batch * num_rows, num_rows, device=index_BK.device).unsqueeze(1)
        return rows_BND.view(-1, width).index_select(0, (index_BK + starts_B1).flatten()).view(*index_BK.shape, width)
    return rows_BND.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, rows_BND.shape[-1]))


def _spread(rows_BKD: Tensor, index_BK: Tensor, num_rows: int) -> Tensor:
    """Each output row looks up its source row, -1 for none."""
    batch, num_some = index_BK.shape
    source_BN = torch.full((batch, num_rows), -1, device=index_BK.device)
    places_BK = torch.arange(num_some, device=index_BK.device).expand(batch, -1)
    # A maximum over unique indices: the order of writing does not matter.
    source_BN = source_BN.scatter_reduce(1, index_BK, places_BK, "amax")
    spread_BND = _gather(rows_BKD, source_BN.clamp(min=0))
    return torch.where(source_BN.unsqueeze(-1) >= 0, spread_BND, 0)
