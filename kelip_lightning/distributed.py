"""Collectives with gradients."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def is_distributed() -> bool:
    """Whether more than one process trains together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order, (world * B, ...); gradients flow back to the rank that owns a row."""
    return torch.cat(all_gather(rows.contiguous())) if is_distributed() else rows
