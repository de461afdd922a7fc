"""The branches of timm's transformer blocks, with fewer kernels than timm's own forward passes.

Layers are called as modules, so that hooks of ZeRO-3, which gathers their parameters, run; norms are unless they have
another dtype than the tokens, as under autocast. Tokens keep their dtype: under autocast the residual stream is
bfloat16, as in open_clip.

Shapes: B batch, L tokens, D width.
"""

from typing import Any, TypeGuard

import torch
from timm.layers import Mlp
from timm.layers.activations import QuickGELU
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from kelip_lightning.models.attention import attend

_SLOPE = 1.702
"""CLIP's constant: quick_gelu(x) = x * sigmoid(1.702 x)."""


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of matrix products with this weight: autocast's, or the weight's own."""
    if not weight.is_meta and torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def quick_gelu_(hidden: Tensor) -> Tensor:
    """CLIP's x * sigmoid(1.702 x) of the output of a linear layer, of any shape; it may be overwritten.

    One more tensor is kept for the backward pass, and not three.
    """
    if torch.compiler.is_compiling():  # which fuses the formula
        return hidden * torch.sigmoid(_SLOPE * hidden)
    activated: Tensor = _QuickGELU.apply(hidden)
    return activated


class _QuickGELU(torch.autograd.Function):
    """By torch's SiLU, one kernel each way: quick_gelu(x) = silu(1.702 x) / 1.702."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        # In place, since a linear layer does not need its output for its own backward pass.
        scaled = hidden.mul_(_SLOPE)
        ctx.save_for_backward(scaled)
        return F.silu(scaled).mul_(1 / _SLOPE)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.silu_backward(upstream[0], scaled)
        return gradient


def normalize(norm: nn.Module, tokens: Tensor) -> Tensor:
    """The LayerNorm of tokens in their dtype, with statistics in float32.

    Autocast would compute it in float32 and keep a float32 copy of the tokens for the backward pass.
    Deviation: outside of CPUs, whose kernel takes two dtypes, gains and biases are rounded to the tokens' dtype.
    """
    if not isinstance(norm, nn.LayerNorm):
        other: Tensor = norm(tokens).to(tokens.dtype)
        return other
    if tokens.is_meta or not norm.elementwise_affine or norm.weight.dtype == tokens.dtype:
        same: Tensor = norm(tokens)
        return same
    if tokens.device.type == "cpu":
        mixed: Tensor = _MixedLayerNorm.apply(tokens, norm.weight, norm.bias, norm.eps)
        return mixed
    with torch.autocast(tokens.device.type, enabled=False):
        parameters = {name: one.to(tokens.dtype) for name, one in norm.named_parameters()}
        return F.layer_norm(tokens, norm.normalized_shape, **parameters, eps=norm.eps)


class _MixedLayerNorm(torch.autograd.Function):
    """LayerNorm of bfloat16 tokens with float32 gains and biases on a CPU.

    Deviation: the backward pass computes in float32. torch's kernel sums the gradients of gains and biases in bfloat16,
    where a sum stops growing: over 12,800 tokens they were off by 12 % and 84 %.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, gains: Tensor, biases: Tensor | None, eps: float) -> Tensor:
        normalized, *statistics = torch.native_layer_norm(tokens, gains.shape, gains, biases, eps)
        ctx.save_for_backward(tokens, gains, biases, *statistics)
        return normalized

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        tokens, gains, biases, mean, inverse_deviation = ctx.saved_tensors
        gradients = torch.ops.aten.native_layer_norm_backward(
            upstream[0].float(),
            tokens.float(),
            gains.shape,
            mean,
            inverse_deviation,
            gains,
            biases,
            ctx.needs_input_grad[:3],
        )
        of_tokens: Tensor | None = gradients[0]
        return None if of_tokens is None else of_tokens.to(tokens.dtype), *gradients[1:], None


def is_plain(block: nn.Module) -> TypeGuard[Block]:
    """Whether it is a `Block` of timm with nothing but attention, an MLP and layer scale."""
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        return False
    attention: Any = block.attn
    extras = (attention.q_norm, attention.k_norm, attention.norm, block.mlp.norm)
    return getattr(attention, "gate", None) is None and all(isinstance(one, nn.Identity) for one in extras)


def attention_branch(block: Block, tokens_BLD: Tensor, num_outputs: int | None = None) -> Tensor:
    """What the attention of a plain block adds to its tokens, or to the first of them."""
    attention: Any = block.attn
    mixed_BLD = attend(attention.qkv(normalize(block.norm1, tokens_BLD)), attention.num_heads, num_outputs)
    change: Tensor = block.ls1(attention.proj(mixed_BLD))
    return change.to(tokens_BLD.dtype)  # gains of layer scale are float32 under autocast


def mlp_branch(block: Block, tokens_BLD: Tensor) -> Tensor:
    """What the MLP of a plain block adds to its tokens."""
    mlp: Any = block.mlp
    hidden_BLF = mlp.fc1(normalize(block.norm2, tokens_BLD))
    hidden_BLF = quick_gelu_(hidden_BLF) if isinstance(mlp.act, QuickGELU) else mlp.act(hidden_BLF)
    change: Tensor = block.ls2(mlp.fc2(hidden_BLF))
    return change.to(tokens_BLD.dtype)


def run_block(block: nn.Module, tokens_BLD: Tensor, num_outputs: int | None = None) -> Tensor:
    """The output of a block, without dropout and stochastic depth, (B, L, D).

    Args:
        block: The block.
        tokens_BLD: Its input.
        num_outputs: Only the first tokens of the output are computed; `None`: all.
    """
    if not is_plain(block):
        result: Tensor = block(tokens_BLD)
        return result[:, :num_outputs]
    tokens_BLD = tokens_BLD[:, :num_outputs] + attention_branch(block, tokens_BLD, num_outputs)
    return tokens_BLD + mlp_branch(block, tokens_BLD)
