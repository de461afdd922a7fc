"""Multi-head self-attention over sequences of equal length, or over captions without their padding.

On a CPU torch's attention computes bfloat16 scores in float32 and copies its inputs several times, which costs three
times as much as the products at the lengths of these models; `_Attention` has its own forward and backward pass. On
other devices torch's fused attention is used.

Shapes: B sequences, L tokens of a sequence, N tokens of all captions, H heads, d head width, G = B * H.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.models.patches import put_rows, take_rows

_SHORT = 24
"""Rows of scores up to this length are normalised by separate kernels: torch's softmax takes twice as long on them."""


@dataclass(slots=True, kw_only=True)
class CaptionPacking:
    """Where the tokens of a batch of captions, without padding, stand in the padded batch."""

    num_captions: int
    width: int
    """Length of the padded captions."""
    cells_N: Tensor
    """int64 (N,), index of each token in the flattened padded batch."""
    positions_N: Tensor
    """int64 (N,), position of each token in its caption."""
    starts: Tensor
    """int64 (B + 1,), the first token of each caption among all N, and N."""

    @property
    def ends(self) -> Tensor:
        """int64 (B,), the last token of each caption among all N."""
        return self.starts[1:] - 1

    def head_rows(self, num_heads: int) -> Tensor:
        """int64 (N * H,): row of the padded heads, (B, H, L) flattened, of each token's heads, (N, H) flattened."""
        captions_N1 = (self.cells_N // self.width).unsqueeze(1)
        heads_H = torch.arange(num_heads, device=self.cells_N.device)
        rows_NH = (captions_N1 * num_heads + heads_H) * self.width + self.positions_N.unsqueeze(1)
        return rows_NH.flatten()


def pack_captions(lengths_B: Tensor, width: int, num_tokens: int | None = None) -> CaptionPacking:
    """The packing of captions of these lengths.

    Args:
        lengths_B: int64, tokens of each caption, at least 1.
        width: Length of the padded captions.
        num_tokens: Sum of the lengths, if the host knows it; else it is read from the device, which synchronises.
    """
    positions_L = torch.arange(width, device=lengths_B.device)
    real_BL = positions_L < lengths_B.unsqueeze(1)
    size = int(lengths_B.sum()) if num_tokens is None else num_tokens
    cells_N = torch.nonzero_static(real_BL.flatten(), size=size).squeeze(1)
    starts = torch.cat([lengths_B.new_zeros(1), lengths_B.cumsum(0)])
    return CaptionPacking(
        num_captions=len(lengths_B), width=width, cells_N=cells_N, positions_N=cells_N % width, starts=starts
    )


def attend(qkv_BLC: Tensor, num_heads: int, num_queries: int | None = None) -> Tensor:
    """Self-attention to all tokens of a sequence, of its first Q tokens, (B, Q, H * d).

    Args:
        qkv_BLC: Queries, keys and values of all heads, in this order, C = 3 * H * d.
        num_heads: H.
        num_queries: Q; `None`: all tokens.
    """
    batch, length, channels = qkv_BLC.shape
    width, num_queries = channels // 3 // num_heads, num_queries or length
    if _written_out(qkv_BLC):
        mixed: Tensor = _SequenceAttention.apply(qkv_BLC, num_heads, num_queries)
        return mixed
    query, key, value = qkv_BLC.view(batch, length, 3, num_heads, width).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query[:, :, :num_queries], key, value).transpose(1, 2).flatten(2)


def attend_packed(
    query_NC: Tensor, key_NC: Tensor, value_NC: Tensor, num_heads: int, packing: CaptionPacking, *, causal: bool
) -> Tensor:
    """Self-attention within each caption, (N, H * d).

    Args:
        query_NC: Queries of all heads, C = H * d.
        key_NC: Keys.
        value_NC: Values.
        num_heads: H.
        packing: Where the captions are.
        causal: Whether a token attends only to itself and those before it.
    """
    query, key, value = (one.view(len(one), num_heads, -1) for one in (query_NC, key_NC, value_NC))
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and (kernel := varlen_kernel()):
        starts = packing.starts.to(torch.int32)
        window = (-1, 0) if causal else (-1, -1)
        result: Tensor = kernel(query, key, value, starts, starts, packing.width, packing.width, window_size=window)
        return result.flatten(1)
    if _written_out(query):
        mixed: Tensor = _PackedAttention.apply(query_NC, key_NC, value_NC, num_heads, packing, causal)
        return mixed
    shape = packing.num_captions, num_heads, packing.width, query.shape[2]
    rows = packing.head_rows(num_heads)
    place = rows.unsqueeze(0)
    query, key, value = (
        put_rows(one.reshape(1, len(rows), -1), place, prod(shape[:3])).view(shape) for one in (query, key, value)
    )
    mask = None if causal else _is_token(packing)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    return take_rows(attended.flatten(0, 2).unsqueeze(0), place).view_as(query_NC)


def attend_at_ends(
    query_BC: Tensor, key_NC: Tensor, value_NC: Tensor, num_heads: int, packing: CaptionPacking
) -> Tensor:
    """Attention of each caption's last token to all of its tokens, (B, H * d); arguments as of `attend_packed`."""
    batch, length = packing.num_captions, packing.width
    query, key, value = (one.view(len(one), num_heads, -1) for one in (query_BC, key_NC, value_NC))
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and (kernel := varlen_kernel()):
        starts = packing.starts.to(torch.int32)
        of_queries = torch.arange(batch + 1, device=starts.device, dtype=torch.int32)
        result: Tensor = kernel(query, key, value, of_queries, starts, 1, length, window_size=(-1, -1))
        return result.flatten(1)
    rows = packing.head_rows(num_heads).unsqueeze(0)
    shape = batch, num_heads, length, query.shape[2]
    key, value = (
        put_rows(one.reshape(1, rows.shape[1], -1), rows, prod(shape[:3])).view(shape) for one in (key, value)
    )
    query = query.view(batch, num_heads, 1, -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=_is_token(packing)).flatten(1)


def _is_token(packing: CaptionPacking) -> Tensor:
    """Whether a cell of the padded batch holds a token, bool (B, 1, 1, L)."""
    lengths_B1 = (packing.starts[1:] - packing.starts[:-1]).unsqueeze(1)
    return (torch.arange(packing.width, device=lengths_B1.device) < lengths_B1)[:, None, None]


def _written_out(values: Tensor) -> bool:
    """Whether `_attention` is faster than torch's attention."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


@cache
def varlen_kernel() -> Callable[..., Any] | None:
    """The attention of torch over sequences of different lengths; `None` in a torch without its window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


class _SequenceAttention(torch.autograd.Function):
    """`attend` on a CPU."""

    @staticmethod
    def forward(ctx: Any, qkv_BLC: Tensor, num_heads: int, num_queries: int) -> Tensor:
        batch, length, channels = qkv_BLC.shape
        heads = qkv_BLC.view(batch, length, 3, num_heads, channels // 3 // num_heads).permute(2, 0, 3, 1, 4)
        qkv = heads.flatten(1, 2) if heads.is_contiguous() else heads.contiguous().flatten(1, 2)
        shares_GQL, mixed_GQd = _attention(qkv[0][:, :num_queries], qkv[1], qkv[2], None)
        ctx.save_for_backward(qkv, shares_GQL)
        ctx.num_heads = num_heads
        return mixed_GQd.view(batch, num_heads, num_queries, -1).transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        qkv, shares_GQL = ctx.saved_tensors
        batch, num_queries, _ = upstream[0].shape
        gradient_GQd = upstream[0].view(batch, num_queries, ctx.num_heads, -1).transpose(1, 2).flatten(0, 1)
        gradients = torch.empty_like(qkv)
        gradients[0][:, num_queries:] = 0
        inputs, outputs = ((one[0][:, :num_queries], one[1], one[2]) for one in (qkv, gradients))
        _attention_backward(inputs, shares_GQL, gradient_GQd, outputs)
        return gradients.unflatten(1, (batch, ctx.num_heads)).permute(1, 3, 0, 2, 4).flatten(2), None, None


class _PackedAttention(torch.autograd.Function):
    """`attend_packed` on a CPU: only the products of attention are padded."""

    @staticmethod
    def forward(
        ctx: Any,
        query_NC: Tensor,
        key_NC: Tensor,
        value_NC: Tensor,
        num_heads: int,
        packing: CaptionPacking,
        causal: bool,
    ) -> Tensor:
        rows, length = packing.head_rows(num_heads), packing.width
        qkv = query_NC.new_zeros(3, packing.num_captions * num_heads * length, query_NC.shape[1] // num_heads)
        for heads, values_NC in zip(qkv, (query_NC, key_NC, value_NC), strict=True):
            heads.index_copy_(0, rows, values_NC.reshape(len(rows), -1))
        qkv = qkv.unflatten(1, (-1, length))
        mask = _causal_mask(length) if causal else _padding_mask(packing, num_heads)
        shares_GLL, mixed_GLd = _attention(qkv[0], qkv[1], qkv[2], mask)
        ctx.save_for_backward(qkv, shares_GLL, rows)
        return mixed_GLd.flatten(0, 1).index_select(0, rows).view_as(query_NC)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        qkv, shares_GLL, rows = ctx.saved_tensors
        gradient_Xd = torch.zeros_like(qkv[0]).flatten(0, 1)
        gradient_Xd.index_copy_(0, rows, upstream[0].reshape(len(rows), -1))
        gradients = torch.empty_like(qkv)
        _attention_backward(tuple(qkv), shares_GLL, gradient_Xd.view_as(qkv[0]), tuple(gradients))
        packed = (one.flatten(0, 1).index_select(0, rows).view_as(upstream[0]) for one in gradients)
        return *packed, None, None, None


def _attention(query_GQd: Tensor, key_GLd: Tensor, value_GLd: Tensor, mask_GQL: Tensor | None) -> tuple[Tensor, Tensor]:
    """The softmax of the scaled scores, (G, Q, L), and the values that it mixes, (G, Q, d).

    Scores have the dtype of the queries; their softmax is computed in float32 or wider.
    """
    scores = _at_least_float32(torch.bmm(query_GQd, key_GLd.transpose(1, 2))).mul_(query_GQd.shape[2] ** -0.5)
    if mask_GQL is not None:
        scores += mask_GQL
    if scores.shape[2] <= _SHORT:
        scores.sub_(scores.amax(dim=2, keepdim=True)).exp_()
        scores.div_(scores.sum(dim=2, keepdim=True))
    else:
        scores = torch.softmax(scores, dim=2)
    shares_GQL = scores.to(query_GQd.dtype)
    return shares_GQL, torch.bmm(shares_GQL, value_GLd)


def _attention_backward(
    inputs: tuple[Tensor, ...], shares_GQL: Tensor, gradient_GQd: Tensor, gradients: tuple[Tensor, ...]
) -> None:
    """Write the gradients of queries, keys and values from that of the mixed values."""
    query_GQd, key_GLd, value_GLd = inputs
    torch.bmm(shares_GQL.transpose(1, 2), gradient_GQd, out=gradients[2])
    of_scores_GQL = _softmax_backward(shares_GQL, torch.bmm(gradient_GQd, value_GLd.transpose(1, 2)))
    of_scores_GQL.mul_(query_GQd.shape[2] ** -0.5)
    gradients[0].copy_(torch.bmm(of_scores_GQL, key_GLd))
    torch.bmm(of_scores_GQL.transpose(1, 2), query_GQd, out=gradients[1])


def _softmax_backward(shares_GLL: Tensor, gradient_GLL: Tensor) -> Tensor:
    """The gradient of the scores, s * (g - sum(s * g)), computed in float32 or wider."""
    if shares_GLL.shape[2] > _SHORT:
        long: Tensor = torch.ops.aten._softmax_backward_data(gradient_GLL, shares_GLL, 2, shares_GLL.dtype)
        return long
    shares, gradient = _at_least_float32(shares_GLL), _at_least_float32(gradient_GLL).mul_(shares_GLL)
    return gradient.addcmul_(shares, gradient.sum(dim=2, keepdim=True), value=-1).to(shares_GLL.dtype)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _causal_mask(length: int) -> Tensor:
    """0 where a token may attend and -inf elsewhere, float32 (L, L)."""
    return torch.full((length, length), -torch.inf, dtype=torch.float32, device="cpu").triu_(1)


def _padding_mask(packing: CaptionPacking, num_heads: int) -> Tensor:
    """0 for keys that are tokens and -inf for padding, float32 (G, 1, L)."""
    padding_BL = torch.zeros(packing.num_captions, packing.width, dtype=torch.float32, device="cpu")
    padding_BL.masked_fill_(~_is_token(packing)[:, 0, 0], -torch.inf)
    return padding_BL.repeat_interleave(num_heads, dim=0).unsqueeze(1)
