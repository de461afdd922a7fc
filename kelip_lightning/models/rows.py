"""Some of many rows, and back: `gather` and `scatter` whose gradients are deterministic on CUDA.

torch's own gradient of `gather` adds rows up by `scatter_add`, since an index may come twice. Here none does, so that
each operation is the other's transpose and both are plain look-ups.

Shapes: B batch, L rows of all, K rows of some, D width.
"""

from typing import Any

import torch
from torch import Tensor


def take_rows(rows_BLD: Tensor, index_BK: Tensor) -> Tensor:
    """Row index[b, k] of each b, (B, K, D).

    Args:
        rows_BLD: Any rows.
        index_BK: int64 in [0, L), no number twice in a row.
    """
    taken: Tensor = _TakeRows.apply(rows_BLD, index_BK)
    return taken


def put_rows(rows_BKD: Tensor, index_BK: Tensor, num_rows: int) -> Tensor:
    """Row k of each b at index[b, k] of `num_rows`, zeros elsewhere, (B, L, D); the transpose of `take_rows`.

    Args:
        rows_BKD: Any rows.
        index_BK: int64 in [0, L), no number twice in a row.
        num_rows: L.
    """
    put: Tensor = _PutRows.apply(rows_BKD, index_BK, num_rows)
    return put


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BLD: Tensor, index_BK: Tensor) -> Tensor:
        ctx.save_for_backward(index_BK)
        ctx.num_rows = rows_BLD.shape[1]
        return _gather(rows_BLD, index_BK)

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
        (index_BK,) = ctx.saved_tensors
        return _gather(upstream[0], index_BK), None, None


def _gather(rows_BLD: Tensor, index_BK: Tensor) -> Tensor:
    return rows_BLD.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, rows_BLD.shape[-1]))


def _spread(rows_BKD: Tensor, index_BK: Tensor, num_rows: int) -> Tensor:
    """Each of all rows looks up which of the few is its own."""
    batch, num_some = index_BK.shape
    # -1 for none. The largest of the places that claim a row is the only one: no order of writing matters.
    source_BL = torch.full((batch, num_rows), -1, device=index_BK.device)
    places_BK = torch.arange(num_some, device=index_BK.device).expand(batch, -1)
    source_BL = source_BL.scatter_reduce(1, index_BK, places_BK, "amax")
    spread_BLD = _gather(rows_BKD, source_BL.clamp(min=0))
    return torch.where(source_BL.unsqueeze(-1) >= 0, spread_BLD, 0)
