"""Which timm Vision Transformer stands inside the image encoder: our own sizes, or one of timm's by name.

Shapes: B batch, H/W grid of patches, D width, N = H * W.
"""

import difflib
from typing import Any

import timm
import torch
from timm.layers import Mlp
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kelip_lightning.models.positions import resample_positions

_MODULES = ("vision_transformer", "deit")
"""Modules of timm whose models are plain Vision Transformers."""


def add_positions(vit: VisionTransformer, patches_BHWD: Tensor, *, official: bool) -> Tensor:
    """The tokens in front of the patches, then the patches, with their positions.

    As `VisionTransformer._pos_embed` of timm and of its distilled models, but for how positions are resampled.

    Args:
        vit: Whose tokens and positions are used.
        patches_BHWD: Embedded patches.
        official: Whether positions are resampled as the official KELIP code does it; else as timm does.

    Returns:
        (B, num_prefix_tokens + N, D).
    """
    height, width = patches_BHWD.shape[1:3]
    tokens_BLD = patches_BHWD.flatten(1, 2)
    in_front = [getattr(vit, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    prefix = [token.expand(len(tokens_BLD), -1, -1) for token in in_front if token is not None]
    if vit.pos_embed is None:
        return torch.cat([*prefix, tokens_BLD], dim=1)
    # Models with no_embed_class have positions for patches alone.
    positions_1LD = resample_positions(
        vit.pos_embed,
        vit.patch_embed.grid_size,
        (height, width),
        num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
        official=official,
    )
    if vit.no_embed_class:
        tokens_BLD = torch.cat([*prefix, tokens_BLD + positions_1LD], dim=1)
    else:
        tokens_BLD = torch.cat([*prefix, tokens_BLD], dim=1) + positions_1LD
    result: Tensor = vit.pos_drop(tokens_BLD)
    return result


def timm_vision_transformer(name: str, **options: Any) -> VisionTransformer:
    """A Vision Transformer of timm by its name, freshly initialised, every token of the last block as its output.

    Args:
        name: As `timm.list_models("vit*")` spells it; a pretraining tag behind a dot is refused.
        options: Passed to timm: img_size.

    Raises:
        ValueError: timm has no such model, or it is no plain Vision Transformer.
    """
    check_timm_name(name)
    model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", dynamic_img_size=True, **options)
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"timm_name = {name} is a {type(model).__name__}; give one of timm's VisionTransformer models")
    return model


def check_timm_name(name: str) -> None:
    """Raise ValueError unless timm knows a Vision Transformer of this name."""
    if "." in name:
        raise ValueError(
            f"timm_name = {name} asks for trained weights; give {name.partition('.')[0]}, since training starts from "
            "fresh ones or from init.image_encoder"
        )
    known = [model for module in _MODULES for model in timm.list_models(module=module)]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"see timm.list_models(module='{_MODULES[0]}')"
        raise ValueError(f"timm_name = {name} is no Vision Transformer of the installed timm; {hint}")


def sizes_of(model: VisionTransformer) -> dict[str, int | float | bool | str]:
    """What a Vision Transformer is like, in the words of `ImageEncoderConfig`."""
    block: Any = model.blocks[0]
    mlp = block.mlp
    plain = isinstance(mlp, Mlp)
    return {
        "patch_size": model.patch_embed.patch_size[0],
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": mlp.fc1.out_features / model.embed_dim if plain else type(mlp).__name__,
        "activation": _activation_name(mlp.act) if plain else type(mlp).__name__,
        "pre_norm": not isinstance(model.norm_pre, nn.Identity),
    }


def _activation_name(module: nn.Module) -> str:
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    return "gelu" if isinstance(module, nn.GELU) else type(module).__name__
