"""Counter-based dropout: every random number is a pure function of (sample seed, stream, index).

So it is the same on any number of ranks, in any number of chunks, when a checkpointed block is recomputed, and on any
device. torch's global random stream is not used. Stream 0 is patch dropout, block i uses streams 1 + 4 i to 4 + 4 i.

Shapes: B samples, V views, L tokens, D width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from kelip_lightning.models.blocks import attention_branch, mlp_branch

PATCHES = 0
"""Stream of patch dropout."""

_WORD = 2**32 - 1
_STEP = 0x9E3779B9
"""2**32 over the golden ratio."""


def uniform(seeds_B: Tensor, stream: int, shape: Sequence[int] = ()) -> Tensor:
    """Numbers in [0, 1), float32 (B, *shape), multiples of 2**-24.

    Args:
        seeds_B: int64 in [0, 2**63), one per sample.
        stream: Index of one of a sample's independent streams, >= 0.
        shape: Numbers per sample.
    """
    index = torch.arange(prod(shape), device=seeds_B.device) * _STEP
    keys = _keys(seeds_B, stream).unsqueeze(1)
    words = _mix(_mix((keys + index) & _WORD) ^ keys)
    return ((words >> 8).float() * 2.0**-24).view(len(seeds_B), *shape)


def view_seeds(seeds_B: Tensor, views: range) -> Tensor:
    """Seeds for views of the samples, int64 (V * B,), views first; `views` are their indices among all of a sample."""
    high = [_keys(seeds_B, 2 * view) << 31 for view in views]
    low = [_keys(seeds_B, 2 * view + 1) >> 1 for view in views]
    return torch.cat([a | b for a, b in zip(high, low, strict=True)])


def dropout(values: Tensor, rate: float, seeds_B: Tensor, stream: int) -> Tensor:
    """Each value zeroed with probability `rate`, the others scaled by 1 / (1 - rate); (B, ...)."""
    return _drop(values, rate, uniform(seeds_B, stream, values.shape[1:]))


def drop_path(values: Tensor, rate: float, seeds_B: Tensor, stream: int) -> Tensor:
    """Each sample zeroed with probability `rate`, the others scaled by 1 / (1 - rate); (B, ...).

    Reference: Huang et al. 2016 (arXiv:1603.09382), stochastic depth.
    """
    return _drop(values, rate, uniform(seeds_B, stream, [1] * (values.ndim - 1)))


def noisy_block(
    block: Block,
    tokens_BLD: Tensor,
    seeds_B: Tensor,
    index: int,
    num_outputs: int | None = None,
    *,
    path_rate: float,
    dropout_rate: float,
) -> Tensor:
    """A plain block of timm with dropout and stochastic depth on the output of both its branches.

    Args:
        block: The block.
        tokens_BLD: Input.
        seeds_B: int64, one per sample.
        index: Index of the block, which determines its streams.
        num_outputs: Only the first tokens of the output are computed; `None`: all.
        path_rate: Probability that a branch is skipped for a sample.
        dropout_rate: Probability that one value of a branch's output is zeroed.
    """
    branches: tuple[Callable[[Block, Tensor], Tensor], ...] = (
        partial(attention_branch, num_outputs=num_outputs),
        mlp_branch,
    )
    for place, branch in enumerate(branches):
        change = branch(block, tokens_BLD)
        stream = 1 + 4 * index + 2 * place
        if dropout_rate:
            change = dropout(change, dropout_rate, seeds_B, stream)
        if path_rate:
            change = drop_path(change, path_rate, seeds_B, stream + 1)
        tokens_BLD = tokens_BLD[:, :num_outputs] + change
    return tokens_BLD


def _drop(values: Tensor, rate: float, noise: Tensor) -> Tensor:
    return values * ((noise >= rate).to(values.dtype) / (1 - rate))


def _keys(seeds_B: Tensor, stream: int) -> Tensor:
    """A 32-bit word per sample from the two halves of its seed and the stream, as int64."""
    keys = _mix((seeds_B + _STEP) & _WORD)
    keys = _mix((keys + (seeds_B >> 32) + _STEP) & _WORD)
    return _mix((keys + (stream + 1) * _STEP) & _WORD)


def _mix(words: Tensor) -> Tensor:
    """Integer hash of 32-bit words, a bijection (Thomas Mueller, multiplier 0x45d9f3b).

    In int64, where the products do not overflow, so that compiled code computes the same.
    """
    for _ in range(2):
        words = ((words >> 16) ^ words) * 0x45D9F3B & _WORD
    return (words >> 16) ^ words
