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
from torch.nn import functional as F


class OfficialVisionTransformer(VisionTransformer):
    """timm's Vision Transformer with position embeddings resampled as the official KELIP code does.

    Reference: navervision/KELIP, `VisualTransformer.interpolate_pos_embedding`: bicubic without antialiasing, with
        scale factors (side + 0.1) / stored side, a trick that came from DINO. The 0.1 shifts every sample a little,
        so that weights trained with it want it.
    Deviation: rows stay rows for pictures that are not square; the official code mixes the two up there.
    """

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Class token in front, positions added: (B, H, W, D) -> (B, 1 + N, D)."""
        assert self.pos_embed is not None
        assert self.cls_token is not None
        batch, height, width, _ = x.shape
        positions = official_positions(self.pos_embed, self.patch_embed.grid_size, (height, width))
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1)
        result: Tensor = self.pos_drop(tokens + positions)
        return result


def official_positions(positions_1LD: Tensor, stored: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Position embeddings for another grid of patches, the class token's unchanged.

    Args:
        positions_1LD: (1, 1 + stored rows * columns, D), class token first.
        stored: Rows and columns of the stored grid.
        wanted: Rows and columns of the picture at hand.

    Returns:
        (1, 1 + wanted rows * columns, D).
    """
    if wanted == stored:
        return positions_1LD
    width = positions_1LD.shape[-1]
    grid = positions_1LD[:, 1:].reshape(1, *stored, width).permute(0, 3, 1, 2)
    rows, columns = ((new + 0.1) / old for new, old in zip(wanted, stored, strict=True))
    # The computation is float32 whatever the weights are: bicubic in half precision is not offered everywhere.
    resampled = F.interpolate(grid.float(), scale_factor=(rows, columns), mode="bicubic").to(grid.dtype)
    return torch.cat([positions_1LD[:, :1], resampled.permute(0, 2, 3, 1).reshape(1, -1, width)], dim=1)


def timm_vision_transformer(name: str, **options: Any) -> VisionTransformer:
    """A Vision Transformer of timm by its name, freshly initialised, every token of the last block as its output.

    Args:
        name: As `timm.list_models("vit*")` spells it; a pretraining tag behind a dot is refused.
        options: Passed to timm: img_size, drop_path_rate, patch_drop_rate.

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
    known = timm.list_models(module="vision_transformer")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models(module='vision_transformer')"
        raise ValueError(f"timm_name = {name} is no Vision Transformer of the installed timm; {hint}")


def sizes_of(model: VisionTransformer) -> dict[str, int | float | bool | str]:
    """What a Vision Transformer is like, in the words of `ImageEncoderConfig`."""
    attention, mlp = model.blocks[0].attn, model.blocks[0].mlp
    plain = isinstance(mlp, Mlp)
    return {
        "patch_size": model.patch_embed.patch_size[0],
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": attention.num_heads,
        "mlp_ratio": mlp.fc1.out_features / model.embed_dim if plain else type(mlp).__name__,
        "activation": _activation_name(mlp.act) if plain else type(mlp).__name__,
        "pre_norm": not isinstance(model.norm_pre, nn.Identity),
    }


def _activation_name(module: nn.Module) -> str:
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    return "gelu" if isinstance(module, nn.GELU) else type(module).__name__
