"""Numbers that are copied to a device once and stay there: each copy of Python numbers makes the host wait for it."""

from functools import cache

import torch
from torch import Tensor


# The compiler calls it once while it traces, and keeps the tensor as a constant of the graph: one call a graph.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def device_constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as float32 (N,), the same tensor at each call; not to be written to."""
    return _cached(values, device)


@cache
def _cached(values: tuple[float, ...], device: torch.device) -> Tensor:
    # What is made in inference mode could not be used in training. The type is named: under bf16-true the default is
    # bfloat16.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
